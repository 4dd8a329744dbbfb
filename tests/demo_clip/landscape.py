"""A summer valley in the mountains, painted by numbers alone: granite, conifers, a meadow, a lake, cumulus.

The scene is a stack of layers (colour multiplied by alpha, and a distance), painted once at twice the clip's size. A
frame shifts each layer by its parallax, mirrors the lot in the lake and scales down. Everything follows from one seed.
"""

from functools import reduce

import cv2
import numpy as np
import numpy.typing as npt

from dsmap.tools.landscape_parts import (
    CENTRE,
    FOCAL,
    HAZE,
    HORIZON,
    LAYER_W,
    SCALE,
    VIEW_H,
    VIEW_W,
    Floats,
    Layer,
    Noise,
    colour,
    mix,
    paint_conifer,
    paint_mountains,
    paint_sky,
    pixel_grid,
    smoothstep,
    stamp,
)

CAMERA_H = 6.0  # above the valley's floor, metres
SHORE = HORIZON + 50  # the lake's far shore, in rows


def row_of(distance: float) -> float:
    return HORIZON + FOCAL * CAMERA_H / distance


def paint_forest(noise: Noise, rng: np.random.Generator, distance: float, trees: list[Floats], density: float) -> Layer:
    """A row of conifers on the valley's floor, in clumps."""
    canvas = np.zeros((VIEW_H, LAYER_W, 4), np.float32)
    count = int(density * LAYER_W * distance / FOCAL)
    for x in rng.uniform(0, LAYER_W, count):
        world_x = (x - CENTRE) * distance / FOCAL
        clump = float(noise(np.array([[world_x + 7 * distance]]), np.array([[distance]]), 640)[0, 0])
        if clump + abs(world_x) * 1.6 / distance < rng.uniform(-0.5, 0.5):
            continue
        near = rng.uniform(0.92, 1.08) * distance
        # Many young trees, few tall ones; the clumps' hearts are the oldest.
        height = (5 + 30 * rng.beta(1.6, 1.9)) * (0.8 + 0.25 * np.clip(clump, -1, 1)) * FOCAL / near
        stamp(canvas, trees[rng.integers(len(trees))], x, row_of(near) + 2, height, rng.uniform(0.7, 1.35))
    haze = 1 - np.exp(-distance / 5200)
    canvas[..., :3] += (HAZE * canvas[..., 3:] - canvas[..., :3]) * np.float32(haze)
    return Layer(rgba=canvas, distance=distance)


def paint_meadow(noise: Noise, rng: np.random.Generator) -> Layer:
    """The valley's floor from the forest to the lake: grass in perspective, darker at the water's edge."""
    x, y = pixel_grid()
    z = FOCAL * CAMERA_H / np.maximum(y - HORIZON, 3)
    world_x = (x - CENTRE) * z / FOCAL
    patches = noise(world_x, z * 0.7, 210)
    blades = noise(x, y * 0.45, 50) * 0.5 + noise(world_x * 4, z, 60) * 0.5
    grass = mix(colour(82, 104, 46), colour(146, 148, 78), smoothstep(-1.4, 1.4, patches + 0.4 * blades))
    grass = grass * (1 + 0.13 * blades + 0.1 * rng.standard_normal(x.shape).astype(np.float32))[..., None]
    edge = SHORE + 7 * noise(world_x, np.float32(3) + 0 * z, 260) + 2 * noise(world_x, 0 * z, 40) - y
    grass = mix(grass, colour(46, 50, 28), smoothstep(7, 0, edge) * 0.8)
    grass = mix(grass, HAZE, smoothstep(100, 900, z) * 0.16)
    alpha = smoothstep(-1, 1, edge) * smoothstep(HORIZON + 1, HORIZON + 5, y)
    return Layer(rgba=np.dstack([grass * alpha[..., None], alpha]), distance=row_of(100), shear=True)


def paint_bank(noise: Noise, rng: np.random.Generator, trees: list[Floats]) -> Layer:
    """The near bank: tall grass along the bottom, two pines at the left."""
    canvas = np.zeros((VIEW_H + 60, LAYER_W, 4), np.float32)
    columns = np.arange(LAYER_W, dtype=np.float32)[None]
    top = 512 + 16 * noise(columns, 0 * columns, 1500)[0] - 60 * smoothstep(600, 300, columns)[0]
    for x, height, shade in ((352, 330, 1.0), (411, 226, 1.15), (290, 420, 0.9), (232, 300, 1.05)):
        stamp(canvas, trees[rng.integers(len(trees))], x, top[x] + 14, height, shade)
    painted = np.clip(canvas * 255, 0, 255).astype(np.uint8)
    tone = noise(columns, 40 + 0 * columns, 900)[0]
    for base in np.sort(rng.uniform(0, 1, 34000)):  # the farthest first
        blade_x = rng.uniform(0, LAYER_W - 1)
        foot = top[int(blade_x)] + base * 95
        length = rng.uniform(10, 30) * (0.7 + 0.9 * base)
        red, green, blue = np.array([90, 112, 50]) * rng.uniform(0.35, 1.2) * (1 - 0.35 * base)
        red *= 1 + 0.07 * tone[int(blade_x)] + rng.uniform(-0.12, 0.3)
        tip = (round(blade_x + rng.normal(2, 4)), round(foot - length))
        stroke = (*(float(min(part, 255)) for part in (red, green, blue)), 255.0)
        cv2.line(painted, (round(blade_x), round(foot)), tip, stroke, 1, cv2.LINE_AA)
    return Layer(rgba=painted[:VIEW_H].astype(np.float32) / 255, distance=26)


class Landscape:
    """`frame(t)`: the scene at t in 0..1 of the camera's path, uint8 (270, 480, 3) RGB."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.noise = Noise(rng)
        trees = [paint_conifer(rng) for _ in range(10)]
        self.sky = paint_sky(self.noise)
        self.mountains = paint_mountains(self.noise, rng)
        self.land = [paint_meadow(self.noise, rng)]
        for distance, density in ((1150, 1.3), (820, 1.2), (600, 1.0), (430, 0.7), (320, 0.5), (245, 0.32), (185, 0.1)):
            self.land.append(paint_forest(self.noise, rng, distance, trees, density))
        self.bank = paint_bank(self.noise, rng, trees)
        self.grain = rng

    def frame(self, t: float) -> npt.NDArray[np.uint8]:
        ground = over(self._place(self.sky, t, drift=14 * t)[..., :3], self._place(self.mountains, t))
        land = [self._place(layer, t) for layer in self.land]
        water = self._lake(reduce(over, land, ground), t)
        ground[SHORE - 20 :] = water[SHORE - 20 :]  # the meadow, laid over it, draws the shore
        picture = reduce(over, [*land, self._place(self.bank, t)], ground)
        small = cv2.resize(picture, (VIEW_W // SCALE, VIEW_H // SCALE), interpolation=cv2.INTER_AREA)
        small += 0.004 * self.grain.standard_normal(small.shape[:2])[..., None]  # a sensor's noise, barely
        return np.rint(np.clip(small, 0, 1) * 255).astype(np.uint8)

    def _place(self, layer: Layer, t: float, drift: float = 0.0) -> Floats:
        """The part of `layer` in view: the camera turns, moves sideways and draws nearer, slowly."""
        ease = t * t * (3 - 2 * t) - 0.5
        sideways, turn, zoom = 1.7 * ease, 70 * ease, 1.02 + 0.035 * t
        per_row = sideways / CAMERA_H * zoom if layer.shear else 0.0
        shift = turn + drift + (0.0 if layer.shear else FOCAL * sideways / layer.distance)
        matrix = np.array(
            [
                [zoom, -per_row, VIEW_W / 2 - zoom * (CENTRE + shift) + per_row * HORIZON],
                [0, zoom, HORIZON * (1 - zoom)],
            ]
        )
        return cv2.warpAffine(layer.rgba, matrix, (VIEW_W, VIEW_H), flags=cv2.INTER_LINEAR)

    def _lake(self, picture: Floats, t: float) -> Floats:
        """Water: the picture mirrored and rippled, darker where one looks down into it."""
        y, x = np.mgrid[0:VIEW_H, 0:VIEW_W].astype(np.float32)
        below = np.maximum(y - SHORE, 0)
        z = FOCAL * CAMERA_H / np.maximum(y - HORIZON, 8)
        world_x = (x - VIEW_W / 2) * z / FOCAL
        ripple = self.noise(world_x + 1.5 * t, z * 2.2 - 3.0 * t, 60) + self.noise(world_x, z * 3 + 5 * t, 23) * 0.6
        mirror = HORIZON + 26
        source_y = mirror - (y - mirror) * 1.25 + ripple * (0.8 + below * 0.05)
        source_x = x + ripple * (0.3 + below * 0.015)
        water = cv2.remap(picture, source_x, source_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        return mix(water * 0.86, colour(26, 52, 50), 0.08 + 0.45 * smoothstep(0, 150, below))


def over(picture: Floats, layer: Floats) -> Floats:
    return picture * (1 - layer[..., 3:]) + layer[..., :3]
