/* NVDEC without a card: the pictures, in the order in which they are decoded, come from the file NVDEC_PICTURES.
   Wider ones than NVDEC_WIDEST are not supported; from picture NVDEC_BREAKS on decoding fails. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    int codec, chroma;
    unsigned depth, reserved[3];
    unsigned char supported, units;
    unsigned short formats;
    unsigned widest, highest, most_macroblocks;
    unsigned short narrowest, lowest;
} Capabilities;

typedef struct {
    unsigned long width, height, surfaces;
    int codec, chroma;
    unsigned long flags, depth, intra, widest, highest, reserved;
    short left, top, right, bottom;
    int format, deinterlace;
    unsigned long target_width, target_height;
} Settings;

typedef struct {
    Settings settings;
    int picture[64], decoded;
} Decoder;

static int given(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text && *text ? atoi(text) : otherwise;
}

int cuvidGetDecoderCaps(Capabilities *caps) {
    caps->supported = caps->chroma == 1;
    caps->formats = 3;
    caps->widest = given("NVDEC_WIDEST", 4096);
    caps->highest = 4096;
    caps->most_macroblocks = 65536;
    caps->narrowest = caps->lowest = 16;
    return 0;
}

int cuvidCreateDecoder(void **decoder, Settings *settings) {
    Decoder *made = calloc(1, sizeof(Decoder));
    made->settings = *settings;
    *decoder = made;
    return 0;
}

int cuvidDestroyDecoder(void *decoder) { free(decoder); return 0; }

int cuvidDecodePicture(Decoder *decoder, int *parameters) {
    if (decoder->decoded >= given("NVDEC_BREAKS", 1 << 30))
        return 999;
    decoder->picture[parameters[2]] = decoder->decoded++;
    return 0;
}

int cuvidMapVideoFrame64(Decoder *decoder, int index, unsigned long long *at, unsigned *pitch, void *how) {
    size_t row = decoder->settings.target_width * (decoder->settings.depth ? 2 : 1);
    size_t bytes = row * decoder->settings.target_height * 3 / 2;
    char *memory = calloc(1, bytes);
    FILE *file = fopen(getenv("NVDEC_PICTURES"), "rb");
    if (file) {
        fseek(file, (long)(bytes * decoder->picture[index]), SEEK_SET);
        if (fread(memory, 1, bytes, file) != bytes)
            memset(memory, 0, bytes);
        fclose(file);
    }
    *at = (unsigned long long)memory;
    *pitch = row;
    return 0;
}

int cuvidUnmapVideoFrame64(void *decoder, unsigned long long at) { free((void *)at); return 0; }
