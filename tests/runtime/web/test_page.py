"""The page around the modes: names from anybody, keys, labels, contrast, and width."""

import json
import shutil

import pytest
from browsers import open_page, served
from camera_page import frames_shown, rename, start, wait_for

EVIL = "<img src=x onerror=\"document.title='broken'\"><b>winter</b>"
NARROW = {"width": 320, "height": 640}
UNDER_FOCUS = "document.activeElement.id || document.activeElement.value || document.activeElement.className"


@pytest.fixture(scope="module")
def opened(camera_chromium, camera_address):
    with open_page(camera_chromium, permissions=["camera"]) as page:
        page.goto(camera_address)
        page.wait_for_selector("#camera-start")
        yield page


@pytest.fixture
def page(opened):
    yield opened
    assert opened.complaints == []


def test_names_of_a_bundle_are_text_and_one_direction_is_enough(camera_site, camera_chromium, tmp_path):
    site = tmp_path / "site"
    shutil.copytree(camera_site, site)
    rename(site, {"winter": EVIL, "tiny": f"{EVIL} {'long ' * 40}", "CC0": EVIL})
    description = site / "model" / "site.json"
    changed = json.loads(description.read_text())
    changed["directions"] = [one for one in changed["directions"] if one["target"] == EVIL]
    changed["styles"][EVIL]["named"] = {EVIL: [0.0] * changed["style_dim"], "__proto__": [1.0] * changed["style_dim"]}
    description.write_text(json.dumps(changed))
    with served(site) as address, open_page(camera_chromium, permissions=["camera"], viewport=NARROW) as page:
        page.goto(f"{address}?backend=wasm")
        start(page)
        assert page.inner_text(".badge.right") == EVIL
        assert page.inner_text(".direction .word >> nth=-1") == EVIL
        page.check("input[name=style] >> nth=1", force=True)
        page.check("input[name=style][value='named:__proto__']", force=True)
        page.check("input[name=style][value=blend]", force=True)
        page.keyboard.press("d")  # there is no other direction
        page.click("#about-open")
        assert page.locator("#about b, #about img").count() == 0
        assert page.title() != "broken"
        assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
        assert page.complaints == []


def test_a_model_that_cannot_be_loaded_is_explained(camera_site, camera_chromium, tmp_path):
    site = tmp_path / "site"
    shutil.copytree(camera_site, site)
    for graph in (site / "model").glob("*.onnx"):
        graph.write_bytes(graph.read_bytes()[:-1])
    with served(site) as address, open_page(camera_chromium) as page:
        page.goto(address)
        assert "The model cannot be used here" in page.inner_text("[role=alert]")


def test_the_page_works_by_keyboard_alone(page):
    page.evaluate("document.activeElement.blur()")
    page.focus("#tab-camera")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#stage[data-mode=video]")
    page.keyboard.press("Home")
    page.wait_for_selector("#stage[data-mode=camera] .toolbar")
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(UNDER_FOCUS))
    for control in ("about-open", "camera-start", "camera-mirror", "camera-compare", "winter", "strength", "size"):
        assert control in reached
    page.focus("#camera-start")
    page.keyboard.press("Enter")
    wait_for(lambda: frames_shown(page), "a frame")
    split = page.locator(".divider-range")
    before = int(split.input_value())
    split.focus()
    page.keyboard.press("ArrowLeft")
    assert int(split.input_value()) == before - 1
    page.keyboard.press("b")
    assert page.get_attribute("#camera-compare", "aria-pressed") == "false"
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press(" ")
    wait_for(lambda: not frames_shown(page), "the camera to stop")


def test_letters_are_keys_until_they_are_switched_off(page):
    page.keyboard.press("?")
    page.wait_for_selector("#about[open]")
    page.uncheck("#keys-on")
    page.keyboard.press("Escape")
    page.keyboard.press("m")
    assert page.get_attribute("#camera-mirror", "aria-pressed") == "true"
    page.click("#about-open")
    page.check("#keys-on")
    page.keyboard.press("Escape")
    page.keyboard.press("m")
    assert page.get_attribute("#camera-mirror", "aria-pressed") == "false"
    page.keyboard.press("m")


def test_screen_readers_get_a_name_for_every_control(page):
    devtools = page.context.new_cdp_session(page)
    page.check("input[name=style][value=random]", force=True)
    for about in (False, True):
        if about:
            page.click("#about-open")
        nodes = devtools.send("Accessibility.getFullAXTree")["nodes"]
        controls = [node for node in nodes if node["role"]["value"] in CONTROLS and not node["ignored"]]
        assert len(controls) > (1 if about else 14)
        assert [node for node in controls if not node["name"]["value"].strip()] == []
    page.keyboard.press("Escape")


CONTROLS = {
    *("button", "tab", "radio", "slider", "combobox", "spinbutton", "checkbox", "dialog", "tabpanel", "group"),
    *("progressbar", "image", "tablist"),
}
# Of every visible text: its contrast with what it stands on, the text, and its class.
CONTRASTS = """() => {
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number)
  const linear = value => value <= .04045 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4
  const light = colour => {
    const [red, green, blue] = numbers(colour).map(value => linear(value / 255))
    return .2126 * red + .7152 * green + .0722 * blue
  }
  const ground = node => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor
      if ((numbers(colour)[3] ?? 1) > .7) return colour
    }
    return 'rgb(255, 255, 255)'
  }
  const hasText = node => [...node.childNodes].some(child => child.nodeType === Node.TEXT_NODE && child.data.trim())
  const texts = [...document.querySelectorAll('body *')].filter(node => hasText(node) && node.checkVisibility())
  return texts.filter(node => !node.closest('noscript')).map(node => {
    const [low, high] = [light(getComputedStyle(node).color), light(ground(node))].sort((a, b) => a - b)
    return [(high + .05) / (low + .05), node.textContent.slice(0, 40), node.className]
  })
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(page, scheme):
    page.emulate_media(color_scheme=scheme)
    page.click("#about-open")
    found = page.evaluate(CONTRASTS)
    page.keyboard.press("Escape")
    assert len(found) > 30
    assert [one for one in found if one[0] < 4.5] == []


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_screen(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    for mode in ("video", "images", "camera"):
        page.click(f"#tab-{mode}")
        page.wait_for_selector(f"#stage[data-mode={mode}] > *")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_direction_comes_with_its_own_style(page):
    """No moment has the new translator with the code of the old domain, however long the code takes."""
    pairs = page.evaluate(
        """async () => {
          const [{ Session }, { loadModel }] = await Promise.all(
            ['./app/session.js', './lib/dsmap.js'].map(path => import(new URL(path, document.baseURI))))
          const session = new Session(await loadModel('./', { backend: 'wasm' }))
          const [first, second] = session.directions.map(one => one.target)
          await session.setTarget(first)
          const picture = await createImageBitmap(new ImageData(256, 256))
          await session.setStyle({ kind: 'picture', picture, name: 'black' })
          const old = session.style
          const pairs = new Set()
          const watch = () => {
            const { target, translator, style } = session
            pairs.add([target === second, translator.target === second, style !== old].join())
          }
          const clock = setInterval(watch, 0)
          await session.setTarget(second)
          watch()
          clearInterval(clock)
          session.translator.close()
          return [...pairs]
        }"""
    )
    assert set(pairs) == {"false,false,false", "true,true,true"}


def test_why_a_page_does_not_work_offline(camera_site, camera_chromium, tmp_path):
    site = tmp_path / "site"
    shutil.copytree(camera_site, site)
    for words in ("It works offline after the first visit.", "It does not work offline: "):
        with served(site) as address, open_page(camera_chromium) as page:
            page.goto(f"{address}?backend=wasm")
            page.wait_for_selector("#number-backend")
            wait_for(lambda page=page, words=words: words in about(page), words)
        (site / "service-worker.js").unlink(missing_ok=True)


def about(page) -> str:
    """What the box about the page says at the moment of privacy and of use offline."""
    page.click("#about-open")
    said = page.inner_text("#about .privacy-note")
    page.keyboard.press("Escape")
    page.wait_for_selector("#about", state="hidden")
    return said
