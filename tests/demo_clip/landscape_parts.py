"""The parts of the demo clip's landscape: noise, sky, granite mountains and conifers.

Image coordinates: x to the right, y down. World coordinates: metres, x right, h up, z away from the camera.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[Any]  # float32, as far as OpenCV and numpy keep it

SCALE = 2  # painted larger than shown: it smooths the edges
VIEW_W, VIEW_H = 480 * SCALE, 270 * SCALE
LAYER_W = VIEW_W + 520  # room for the pan on both sides
HORIZON, CENTRE = 352, LAYER_W / 2
FOCAL = 900.0
NEAR, FAR = 1300.0, 12000.0  # the rendered mountains, metres
SUN = np.array([-0.42, 0.52, -0.74], np.float32)  # towards the sun: behind the camera's left shoulder
HAZE = np.array([0.62, 0.73, 0.87], np.float32)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """float32 (H, W, 4): RGB in 0..1 multiplied by alpha. `shear`: the ground, each row at a distance of its own."""

    rgba: Floats
    distance: float
    shear: bool = False


def smoothstep(low: float, high: float, value: Floats) -> Floats:
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mix(first: Floats, second: Floats, share: Floats) -> Floats:
    return first + (second - first) * share[..., None]


def colour(*rgb: int) -> Floats:
    return np.array(rgb, np.float32) / 255


class Noise:
    """Tileable fractal noise, sampled anywhere: mean 0, standard deviation about 1."""

    def __init__(self, rng: np.random.Generator, octaves: int = 8, gain: float = 0.5) -> None:
        size, tile = 1024, np.zeros((1024, 1024), np.float32)
        for octave in range(octaves):
            cells = 4 << octave
            grid = np.pad(rng.standard_normal((cells, cells)).astype(np.float32), 4, mode="wrap")
            step = size // cells
            fine = cv2.resize(grid, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC) if step > 1 else grid
            tile += gain**octave * fine[4 * step : 4 * step + size, 4 * step : 4 * step + size]
        self.tile = (tile - tile.mean()) / tile.std()

    def __call__(self, x: Floats, y: Floats, period: float) -> Floats:
        """Noise at (x, y); one tile (four of its largest blobs) spans `period`."""
        to_tile = np.float32(1024 / period)
        shape = np.broadcast_shapes(np.shape(x), np.shape(y))
        map_x = np.mod(np.broadcast_to(x, shape) * to_tile, 1024).astype(np.float32)
        map_y = np.mod(np.broadcast_to(y, shape) * to_tile, 1024).astype(np.float32)
        return cv2.remap(self.tile, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def pixel_grid(height: int = VIEW_H) -> tuple[Floats, Floats]:
    y, x = np.mgrid[0:height, 0:LAYER_W].astype(np.float32)
    return x, y


def paint_sky(noise: Noise) -> Layer:
    """Deep blue above, pale at the horizon, and cumulus: lit on the sun's side, grey and flat below."""
    x, y = pixel_grid()
    sky = mix(colour(52, 108, 186), colour(176, 208, 236), smoothstep(0, HORIZON, y) ** 1.3)
    # Clouds lie on a ceiling: towards the horizon they get smaller and flatter.
    depth = 90 / (HORIZON + 60 - np.minimum(y, HORIZON))
    u, v = (x - CENTRE) * depth, depth * 900

    def density(du: float, dv: float) -> Floats:
        warp = 12 * noise(u + du, v + dv, 190)
        return noise(u + du + warp, v + dv + 500, 760) + 0.35 * noise(u + du, v + dv + 77, 150)

    here = density(0, 0)
    cover = smoothstep(0.55, 1.35, here) * smoothstep(HORIZON, HORIZON - 160, y)
    lit = np.clip(0.62 + 0.5 * (here - density(-9, -14)) - 0.16 * (here - 0.8), 0, 1)
    cloud = mix(colour(150, 164, 188), colour(255, 252, 246), lit)
    sky = mix(sky, cloud, cover * 0.95)
    return Layer(rgba=np.dstack([sky, np.ones_like(x)]), distance=1e6)


class Terrain:
    """Heights of the valley's walls: a U-shaped valley, buttresses, and a dome at its end."""

    def __init__(self, noise: Noise) -> None:
        self.noise = noise

    def height(self, x: Floats, z: Floats) -> Floats:
        noise = self.noise
        # Turned noise: along z its grid would show as level bands on a wall that faces the camera.
        u, v = 0.8 * x + 0.6 * z, 0.8 * z - 0.6 * x
        rough = noise(u, v + 900, 5200)
        # Distance outwards from the foot of the wall; the noise in it makes buttresses and gullies.
        outwards = (
            np.abs(x - 60 - 150 * np.sin(z / 1900)) - (560 + 0.05 * (z - NEAR)) + 190 * rough + 60 * noise(u, v, 1300)
        )
        tall = (500 + 150 * noise(x + 3100, z + 500, 9000) + 0.05 * z) * smoothstep(NEAR + 200, NEAR + 1500, z)
        cliff = smoothstep(0, 260, outwards) * 0.7 + smoothstep(230, 1300, outwards) * 0.55
        talus = 0.16 * smoothstep(-330, 90, outwards)
        ground = tall * (cliff + talus) * (1 + 0.10 * rough) + 26 * noise(u, v, 700) * smoothstep(-100, 200, outwards)
        dome = 1180 * np.exp(-((np.abs((x - 420) / 620) ** 3) + np.abs((z - 8300) / 800) ** 3))
        dome *= 0.55 + 0.45 * smoothstep(-260, -60, x - 420)
        back = (760 + 300 * noise(x, z + 70, 7000)) * smoothstep(8800, 11500, z)
        return np.maximum(np.maximum(ground, dome), back) + 7 * noise(u, v, 260)


def cast(terrain: Terrain) -> tuple[npt.NDArray[np.bool_], Floats]:
    """Where mountains are seen, and their distance z per pixel: the first terrain sample above each line of sight."""
    z = np.geomspace(NEAR, FAR, 900).astype(np.float32)[:, None]
    x = (np.arange(LAYER_W, dtype=np.float32)[None] - CENTRE) * z / FOCAL
    tops = np.maximum.accumulate(FOCAL * terrain.height(x, z) / z, axis=0)
    above = (HORIZON - np.arange(VIEW_H, dtype=np.float32))[:, None]
    depth = np.empty((VIEW_H, LAYER_W), np.float32)
    for column in range(LAYER_W):
        top = tops[:, column]
        depth[:, column] = np.interp(above[:, 0], top + np.arange(900) * 1e-4, z[:, 0], right=np.inf)
    return np.isfinite(depth), np.where(np.isfinite(depth), depth, FAR).astype(np.float32)


def paint_mountains(noise: Noise, rng: np.random.Generator) -> Layer:
    terrain = Terrain(noise)
    seen, z = cast(terrain)
    px, py = pixel_grid()
    x, h = (px - CENTRE) * z / FOCAL, (HORIZON - py) * z / FOCAL
    slope_x = (terrain.height(x + 6, z) - terrain.height(x - 6, z)) / 12
    slope_z = (terrain.height(x, z + 6) - terrain.height(x, z - 6)) / 12
    # Cracks and ledges the height map is too coarse for: noise over the wall's own surface, stretched downwards.
    along = x * 0.9 + z * 0.6
    # Every lookup is turned a little, or the noise's grid would show as masonry.
    cracks = noise(along + 0.13 * h, h * 0.16 + 0.2 * along, 420)
    ledges = noise(along * 0.4 - 0.5 * h, h + 0.23 * along, 520)
    normal = np.stack([-slope_x + 0.6 * cracks, 1 + 0.25 * ledges, -slope_z + 0.3 * ledges], -1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    steep = np.hypot(slope_x, slope_z)
    light = np.clip(normal @ (SUN / np.linalg.norm(SUN)), 0, 1) * sunlit(terrain, x, h, z)
    stains = smoothstep(0.2, 1.6, noise(along + 0.06 * h, h * 0.05 + 0.1 * along, 900))
    rock = (
        mix(colour(172, 163, 150), colour(104, 101, 100), stains * 0.8)
        * (1 + 0.10 * noise(along + 0.6 * h, 0.8 * h - 0.5 * along, 130))[..., None]
    )
    ground = mix(colour(58, 74, 40), colour(98, 104, 62), smoothstep(-1, 1.5, noise(x, z, 160)))
    green = smoothstep(1.5, 0.85, steep + 0.25 * noise(x, h, 500)) * smoothstep(900, 500, h + 120 * ledges)
    lit = light[..., None] * np.array([1.18, 1.10, 0.98], np.float32) + np.array([0.22, 0.27, 0.36], np.float32)
    shown = mix(rock, ground, green) * lit
    trees = seen & (green * rng.random(green.shape) > 0.5) & (rng.random(green.shape) < 0.09)
    shown = plant(shown, np.argwhere(trees), z, light, rng)
    shown = mix(shown, np.broadcast_to(HAZE, shown.shape), (1 - np.exp(-(z - 900) / 13000)) * 0.95)
    alpha = cv2.GaussianBlur(seen.astype(np.float32), (3, 3), 0)
    return Layer(rgba=np.dstack([shown * alpha[..., None], alpha]), distance=4000)


def sunlit(terrain: Terrain, x: Floats, h: Floats, z: Floats) -> Floats:
    """1 in the sun, 0 in the shadow of another part of the mountains."""
    towards = SUN / np.linalg.norm(SUN)
    clear = np.full(x.shape, 1e9, np.float32)
    for distance in np.geomspace(25, 1800, 26):
        ray = [part + towards[axis] * np.float32(distance) for axis, part in enumerate((x, h, z))]
        clear = np.minimum(clear, (ray[1] - terrain.height(ray[0], ray[2])) / np.float32(distance))
    return smoothstep(-0.10, 0.06, clear)


def paint_conifer(rng: np.random.Generator, height: int = 300) -> Floats:
    """One tree, (height, height // 2, 4): drooping branches, dark inside and below, lit at the tips towards the sun."""
    width = height // 2
    big = np.zeros((height * 2, width * 2, 4), np.uint8)  # 4 channels: cv2's smooth lines then blend alpha as well
    middle, base = width, height * 2 - 8
    cv2.line(big, (middle, 30), (middle, base), (58, 46, 36, 255), 7, cv2.LINE_AA)
    fullness, lean = rng.uniform(0.62, 0.95), rng.uniform(0.75, 1.1)
    hue = np.array([rng.uniform(0.9, 1.25), 1.0, rng.uniform(0.75, 1.0)])
    for t in np.sort(rng.uniform(0.02, 0.93, 900))[::-1]:  # from below: upper branches lie over lower ones
        reach = width * 0.92 * fullness * t**lean * rng.uniform(0.35, 1.0) * (1 + 0.18 * np.sin(t * 37 + 60 * fullness))
        side = rng.uniform(-1, 1)
        y = 10 + t * (base - 40)
        tip = (int(middle + side * reach), int(y + abs(side) * reach * rng.uniform(0.25, 0.6)))
        shade = (0.55 + 0.45 * abs(side)) * (1.0 - 0.42 * side) * rng.uniform(0.55, 1.15) * (1.1 - 0.35 * t)
        red, green, blue = np.clip(np.array([52, 70, 36]) * hue * shade, 0, 255)
        stroke = (float(red), float(green), float(blue), 255.0)
        cv2.line(big, (int(middle + side * reach * 0.25), int(y)), tip, stroke, int(rng.integers(2, 6)), cv2.LINE_AA)
    return cv2.resize(big, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def stamp(canvas: Floats, sprite: Floats, x: float, base: float, height: float, shade: float) -> None:
    """Draw `sprite` on `canvas` (H, W, 3 or 4), `height` pixels tall, its foot at (x, base). In place."""
    size = max(3, round(height))
    small = cv2.resize(sprite, (max(2, size // 2), size), interpolation=cv2.INTER_AREA)
    top, left = round(base) - size, round(x) - small.shape[1] // 2
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + size, canvas.shape[0]), min(left + small.shape[1], canvas.shape[1])
    if y1 <= y0 or x1 <= x0:
        return
    part = small[y0 - top : y1 - top, x0 - left : x1 - left].copy()
    part[..., :3] = part[..., :3] * np.float32(shade)
    canvas[y0:y1, x0:x1] = canvas[y0:y1, x0:x1] * (1 - part[..., 3:]) + part[..., : canvas.shape[2]]


def plant(shown: Floats, feet_yx: npt.NDArray, z: Floats, light: Floats, rng: np.random.Generator) -> Floats:
    """Conifers on the mountains' green slopes, the farthest first."""
    trees = [paint_conifer(rng, 64) for _ in range(6)]
    canvas = shown.astype(np.float32)
    for y, x in feet_yx[np.argsort(-z[tuple(feet_yx.T)])]:
        height = rng.uniform(20, 42) * FOCAL / z[y, x]
        stamp(canvas, trees[rng.integers(6)], x, y + 1, height, 0.55 + 0.75 * light[y, x])
    return canvas
