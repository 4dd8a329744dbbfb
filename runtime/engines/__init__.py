"""TensorRT engines on disk.

From the library to a loaded engine:
- `tensorrt_api`: imports TensorRT, and knows what its flavours and versions do differently.
- `size_profile`: the image sizes that an engine is built for.
- `build_options`: how TensorRT is asked to build.
- `build`: builds an engine and writes it with its sidecar; `layer_statistics` is the precision gate.
- `progress`: how far a build is, and Ctrl-C during it.
- `sidecars`: the JSON file beside an engine: its key, its hash.
- `trust`: the record of engines that this user has built here. Others are code from somebody else.
- `lookup`: finds the engine in a folder that fits, and checks it.
- `cache`: where in the user's cache an engine lies (the folder itself: `dsmap.common.cache_folder`).
- `store`: all of it together for a backend: from the bundle, the cache, or a new build.
"""
