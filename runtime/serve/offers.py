"""Offers of browsers (SDP): bounded and checked before anything is opened for them.

The addresses in an offer (its ICE candidates) are not used: the server sends to nobody who has not sent to it first,
with the password of the answer. So an offer cannot make it send packets to other machines, nor look up names.
"""

import re

from aiortc import RTCSessionDescription
from aiortc.sdp import SessionDescription

from dsmap.errors import InputError

MAX_OFFER_BYTES = 64 << 10
"""Browsers' have 5 to 10 kB."""
_ADVICE = "Send an offer with one video that is sent and received and one data channel, as docs/serve.md shows."
_HASHES = ("sha-256", "sha-384", "sha-512")
_ADDRESSES = re.compile(r"a=(candidate:|end-of-candidates|remote-candidates:)")


def checked_offer(text: str) -> RTCSessionDescription:
    """The offer without its addresses. Raises InputError for what is no offer of one video and one data channel."""
    if len(text) > MAX_OFFER_BYTES:
        raise InputError(f"the offer has {len(text)} characters, expected at most {MAX_OFFER_BYTES}", _ADVICE)
    kept = [line for line in text.splitlines() if not _ADDRESSES.match(line)]
    text = "\r\n".join(kept) + "\r\n"
    try:
        description = SessionDescription.parse(text)
    except Exception as error:  # the parser raises what it comes upon: assertions, keys, indices
        raise InputError("the offer is not valid SDP", _ADVICE) from error
    if fault := _fault(description):
        raise InputError(f"the offer {fault}", _ADVICE)
    return RTCSessionDescription(sdp=text, type="offer")


def _fault(description: SessionDescription) -> str | None:
    """What is wrong with an offer; the rest of a sentence."""
    kinds = sorted(media.kind for media in description.media)
    if kinds != ["application", "video"]:
        return f"has {len(kinds)} streams ({', '.join(kinds)[:100]}), expected one video and one data channel"
    for media in description.media:
        if not media.rtp.muxId:
            return f"has no name (a=mid) for its {media.kind}"
        if media.dtls is None or not any(one.algorithm.lower() in _HASHES for one in media.dtls.fingerprints):
            return "has no DTLS fingerprint by SHA-256"
        if media.ice is None or not media.ice.usernameFragment or not media.ice.password:
            return "has no ICE username or password"
        if media.kind == "application" and (media.sctp_port is None or media.sctpCapabilities is None):
            return "has a data channel without a port or a largest message"
        if media.kind == "video" and media.direction != "sendrecv":
            return f"has a video that is {media.direction}, expected sendrecv"
        if media.kind == "video" and "video/vp8" not in (codec.mimeType.lower() for codec in media.rtp.codecs):
            return "does not have VP8 for its video"
    names = [media.rtp.muxId for media in description.media]
    bundles = [group.items for group in description.group if group.semantic == "BUNDLE"]
    if len(set(names)) < 2 or bundles != [names]:
        return "does not bundle its streams (a=group:BUNDLE)"
    return None
