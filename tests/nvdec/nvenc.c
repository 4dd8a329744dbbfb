/* NVENC without a card: its H.264 is lossless (every macroblock I_PCM), so that a file shows what the encoder was given.

   NVENC_NONE         the card has no encoder, as an H100
   NVENC_VERSION      of the interface (13)
   NVENC_CODECS       of H.264, HEVC and AV1, the first so many are supported (1); the latter two only open and close
   NVENC_WIDEST, NVENC_NARROWEST
   NVENC_BETWEEN      B pictures between two others, unless the program says how many (2, as with the preset p4)
   NVENC_SESSIONS     that can be open at once
   NVENC_BREAKS       picture from which encoding fails
   NVENC_REPORT       file: a line of JSON for every encoder that is closed

   The structures hold what is used here, at the places of version 13.0 of the interface. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned char Byte;
typedef unsigned int U32;
typedef unsigned long long U64;
typedef struct { U32 words[4]; } Guid;

enum { NO_DEVICE = 2, INVALID = 8, NO_MEMORY = 10, NOT_INITIALISED = 11, BAD_VERSION = 15, MORE_INPUT = 17, GENERIC = 20 };
enum { NV12 = 1, YV12 = 16 };
enum { P = 0, B = 1, I = 2, IDR = 3 };
enum { FORCE_INTRA = 1, FORCE_IDR = 2, WITH_HEADERS = 4, END = 8 };
enum { API = 13, MOST = 64, HEADERS = 256 };

static const Guid codecs[] = {
    {{0x6bc82762, 0x4ca44e63, 0x501e85aa, 0xbff621f3}},
    {{0x790cdc88, 0x4d7b4522, 0xa9bd2594, 0x03765f97}},
    {{0x0a352289, 0x47590aa7, 0x155d2d86, 0x54d216cd}},
};

/* A picture that was given, in the memory of the host or, registered, that of the card. */
typedef struct {
    Byte *data;
    U32 pitch, rows, format;
    int owned;
} Input;

typedef struct {
    Byte *data;
    U32 bytes, type, number;
    U64 time, duration;
} Output;

typedef struct {
    Byte *planes; /* I420, padded to whole macroblocks */
    U32 flags, number;
    U64 time, duration;
} Picture;

typedef struct {
    U32 codec, width, height, across, down, between, period, headers_apart, repeats, wide, high;
    U32 signal, format, full, described, primaries, transfer, matrix;
    U32 initialised, pictures, since_idr, references, idrs, waits, registered, most_registered, all_registered, mapped;
    Picture waiting[MOST];
    Output *outputs[MOST];
    char problem[100];
} Encoder;

static int sessions;

static int given(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text && *text ? atoi(text) : otherwise;
}

static int fails(Encoder *encoder, int error, const char *why) {
    snprintf(encoder->problem, sizeof encoder->problem, "%s", why);
    return error;
}

/* Bits */
typedef struct {
    Byte *data;
    U64 bits;
} Bits;

static void put(Bits *to, U32 value, int count) {
    while (count--) {
        Byte *byte = to->data + to->bits / 8;
        if (to->bits % 8 == 0) *byte = 0;
        *byte |= (value >> count & 1) << (7 - to->bits++ % 8);
    }
}

static void golomb(Bits *to, U32 value) {
    int length = 0;
    while ((value + 1) >> (length + 1)) length++;
    put(to, 0, length);
    put(to, value + 1, length + 1);
}

static void align(Bits *to) { while (to->bits % 8) put(to, 0, 1); }

/* A NAL unit at `to` with the bytes that keep start codes out of it; returns its length. */
static U32 unit(Byte *to, Byte first, Bits *from) {
    Byte *at = to;
    put(from, 1, 1);
    align(from);
    at[0] = at[1] = at[2] = 0;
    at[3] = 1;
    at[4] = first;
    at += 5;
    for (U64 i = 0, zeros = 0; i < from->bits / 8; i++) {
        if (zeros == 2 && from->data[i] < 4) *at++ = 3, zeros = 0;
        zeros = from->data[i] ? 0 : zeros + 1;
        *at++ = from->data[i];
    }
    return at - to;
}

static U32 headers(Encoder *encoder, Byte *to) {
    Byte room[HEADERS];
    Bits sps = {room}, pps = {room};
    put(&sps, 77 << 16 | 52, 24); /* Main, level 5.2 */
    golomb(&sps, 0);
    golomb(&sps, 12); /* 16 bits of frame_num */
    golomb(&sps, 0);
    golomb(&sps, 12); /* 16 bits of the order of output */
    golomb(&sps, 1);
    put(&sps, 0, 1);
    golomb(&sps, encoder->across - 1);
    golomb(&sps, encoder->down - 1);
    put(&sps, 7, 3); /* frames, direct 8x8, cropping */
    golomb(&sps, 0);
    golomb(&sps, (encoder->across * 16 - encoder->width) / 2);
    golomb(&sps, 0);
    golomb(&sps, (encoder->down * 16 - encoder->height) / 2);
    put(&sps, 1, 1);
    put(&sps, 1 << 8 | 255, 9);
    put(&sps, encoder->wide, 16);
    put(&sps, encoder->high, 16);
    put(&sps, 0, 1);
    put(&sps, encoder->signal, 1);
    if (encoder->signal) {
        put(&sps, encoder->format, 3);
        put(&sps, encoder->full, 1);
        put(&sps, encoder->described, 1);
        if (encoder->described) put(&sps, encoder->primaries << 16 | encoder->transfer << 8 | encoder->matrix, 24);
    }
    put(&sps, 3, 7); /* nothing but restrictions, and vectors anywhere */
    golomb(&sps, 0);
    golomb(&sps, 0);
    golomb(&sps, 11);
    golomb(&sps, 11);
    golomb(&sps, encoder->between ? 1 : 0);
    golomb(&sps, 2);
    U32 bytes = unit(to, 0x67, &sps);
    golomb(&pps, 0);
    golomb(&pps, 0);
    put(&pps, 0, 2);
    for (int i = 0; i < 3; i++) golomb(&pps, 0);
    put(&pps, 0, 3);
    for (int i = 0; i < 3; i++) golomb(&pps, 0);
    put(&pps, 4, 3); /* slices say how they are deblocked */
    return bytes + unit(to + bytes, 0x68, &pps);
}

static void write_picture(Encoder *encoder, const Picture *picture, U32 type, U32 place, Output *to) {
    U32 blocks = encoder->across * encoder->down, stride = encoder->across * 16, first = type >= I ? 0x65 : 0x41;
    Bits slice = {malloc(blocks * 400 + 100)};
    if (type == IDR) encoder->references = 0, encoder->idrs++;
    if (type == I) first = 0x61;
    if (type == B) first = 0x01;
    golomb(&slice, 0);
    golomb(&slice, type >= I ? 7 : 5);
    golomb(&slice, 0);
    put(&slice, encoder->references & 0xffff, 16);
    if (type == IDR) golomb(&slice, encoder->idrs % 2);
    put(&slice, place * 2 & 0xffff, 16);
    if (type < I) put(&slice, 0, 2);
    if (type != B) put(&slice, 0, type == IDR ? 2 : 1), encoder->references++;
    golomb(&slice, 0);
    golomb(&slice, 1);
    for (U32 block = 0; block < blocks; block++) {
        const Byte *luma = picture->planes + block / encoder->across * 16 * stride + block % encoder->across * 16;
        if (type < I) golomb(&slice, 0);
        golomb(&slice, type >= I ? 25 : 30); /* I_PCM */
        align(&slice);
        for (int row = 0; row < 16; row++, slice.bits += 128)
            memcpy(slice.data + slice.bits / 8, luma + row * stride, 16);
        for (int plane = 0; plane < 2; plane++) {
            const Byte *chroma = picture->planes + blocks * (256 + plane * 64) +
                                 block / encoder->across * 8 * (stride / 2) + block % encoder->across * 8;
            for (int row = 0; row < 8; row++, slice.bits += 64)
                memcpy(slice.data + slice.bits / 8, chroma + row * (stride / 2), 8);
        }
    }
    free(to->data);
    to->data = malloc(slice.bits / 8 * 3 / 2 + 2 * HEADERS);
    to->bytes = 0;
    if (picture->flags & WITH_HEADERS || (type == IDR && !encoder->headers_apart && (encoder->repeats || encoder->idrs == 1)))
        to->bytes = headers(encoder, to->data);
    to->bytes += unit(to->data + to->bytes, first, &slice);
    to->type = type;
    to->number = picture->number;
    to->time = picture->time;
    to->duration = picture->duration;
    free(slice.data);
}

/* The planes of `input`, its edges repeated, as the encoder keeps them. For a registered picture, the chroma lies
   directly behind the rows of luma that it was registered with. */
static Byte *planes_of(Encoder *encoder, const Input *input, U32 pitch) {
    U32 wide = encoder->across * 16, high = encoder->down * 16;
    Byte *planes = malloc(wide * high * 3 / 2), *chroma = input->data + (U64)pitch * input->rows;
    for (U32 y = 0; y < high; y++)
        for (U32 x = 0; x < wide; x++) {
            U32 row = y < encoder->height ? y : encoder->height - 1, column = x < encoder->width ? x : encoder->width - 1;
            planes[y * wide + x] = input->data[(U64)row * pitch + column];
        }
    for (U32 y = 0; y < high / 2; y++)
        for (U32 x = 0; x < wide / 2; x++) {
            U32 row = y < encoder->height / 2 ? y : encoder->height / 2 - 1;
            U32 column = x < encoder->width / 2 ? x : encoder->width / 2 - 1;
            for (U32 plane = 0; plane < 2; plane++) {
                Byte *in_plane = chroma + (U64)(1 - plane) * (pitch / 2) * ((input->rows + 1) / 2);
                planes[wide * high * (4 + plane) / 4 + y * (wide / 2) + x] =
                    input->format == NV12 ? chroma[(U64)row * pitch + column * 2 + plane]
                                          : in_plane[(U64)row * (pitch / 2) + column];
            }
        }
    return planes;
}

/* Encodes what waits, the last as `last`, then the others: between it and the picture before them. */
static void encode_waiting(Encoder *encoder, int last) {
    U32 count = encoder->waits, filled = 0;
    if (count && last == B) {
        U32 place = encoder->since_idr + count - 1;
        write_picture(encoder, &encoder->waiting[count - 1], P, place, encoder->outputs[filled++]);
        for (U32 i = 0; i + 1 < count; i++)
            write_picture(encoder, &encoder->waiting[i], B, encoder->since_idr + i, encoder->outputs[filled++]);
        encoder->since_idr += count;
    } else
        for (U32 i = 0; i < count; i++) {
            U32 type = i == count - 1 ? last : P;
            if (type == IDR) encoder->since_idr = 0;
            write_picture(encoder, &encoder->waiting[i], type, encoder->since_idr++, encoder->outputs[filled++]);
        }
    for (U32 i = 0; i < count; i++) free(encoder->waiting[i].planes);
    encoder->waits = 0;
}

/* The interface, in the order of its table */
typedef struct { U32 version, kind; void *device, *reserved; U32 api; } Opening;
typedef struct { U32 version, which; } Query;
typedef struct {
    U32 version;
    Guid profile;
    U32 period, interval, other[35], flags, level, idr_period, other_codec[15];
    U32 overscan[2], signal, format, full, described, primaries, transfer, matrix;
} Config;
typedef struct {
    U32 version;
    Guid codec, preset;
    U32 width, height, shape_width, shape_height, rate, rate_divisor, async, decides, bits, private_bytes;
    void *private_data;
    Config *config;
} Settings;
typedef struct { U32 version, width, height, heap, format, reserved; Input *buffer; } NewInput;
typedef struct { U32 version, size, heap, reserved; Output *buffer; } NewOutput;
typedef struct { U32 version, flags; Input *buffer; void *data; U32 pitch; } InputLock;
typedef struct { U32 version, flags; Output *buffer; void *offsets; U32 number, status, slices, bytes; U64 time, duration;
    void *data; U32 type, structure, quality; } OutputLock;
typedef struct { U32 version, bytes, sps, pps; Byte *buffer; U32 *written; } Sequence;
typedef struct { U32 version, kind, width, height, pitch, index; Byte *data; Input *resource; U32 format; } Registration;
typedef struct { U32 version, index; void *reserved; Input *resource, *mapped; U32 format; } Mapping;
typedef struct { U32 version, width, height, pitch, flags, number; U64 time, duration; Input *input; Output *output;
    void *event; U32 format, structure, type; } Job;

static int nothing(void) { return 0; }

static int codec_count(Encoder *encoder, U32 *count) { *count = given("NVENC_CODECS", 1); return 0; }

static int codec_list(Encoder *encoder, Guid *list, U32 size, U32 *count) {
    codec_count(encoder, count);
    memcpy(list, codecs, sizeof(Guid) * (*count < size ? *count : size));
    return 0;
}

static int capability(Encoder *encoder, Guid codec, Query *query, int *value) {
    switch (query->which) {
    case 0: *value = 4; break; /* B pictures */
    case 16: *value = given("NVENC_WIDEST", 4096); break;
    case 17: *value = 4096; break;
    case 45: case 46: *value = given("NVENC_NARROWEST", 16); break;
    case 33: case 39: *value = 0; break; /* 4:4:4, 10 bits */
    default: *value = 1;
    }
    return 0;
}

static int preset(Encoder *encoder, Guid codec, Guid preset, int tuning, U32 *out) {
    Config *config = (Config *)(out + 2);
    config->period = 250;
    config->interval = given("NVENC_BETWEEN", 2) + 1;
    return 0;
}

static int initialise(Encoder *encoder, Settings *settings) {
    const Config *config = settings->config;
    U32 narrowest = given("NVENC_NARROWEST", 16);
    if (settings->width < narrowest || settings->height < narrowest)
        return fails(encoder, INVALID, "Frame Dimension less than the minimum supported value.");
    if (settings->width > given("NVENC_WIDEST", 4096) || settings->width % 2 || settings->height % 2)
        return fails(encoder, INVALID, "Invalid frame dimensions.");
    for (encoder->codec = 0; encoder->codec < 3; encoder->codec++)
        if (!memcmp(&codecs[encoder->codec], &settings->codec, sizeof(Guid))) break;
    encoder->width = settings->width;
    encoder->height = settings->height;
    encoder->across = (settings->width + 15) / 16;
    encoder->down = (settings->height + 15) / 16;
    U32 wide = settings->shape_width * settings->height, high = settings->shape_height * settings->width, rest;
    for (U32 a = wide, b = high; rest = b, b; a = rest) b = a % b, encoder->wide = wide / rest, encoder->high = high / rest;
    encoder->between = config->interval ? config->interval - 1 : 0;
    encoder->period = config->period;
    encoder->headers_apart = config->flags >> 7 & 1;
    encoder->repeats = config->flags >> 12 & 1;
    memcpy(&encoder->signal, &config->signal, 7 * sizeof(U32));
    encoder->initialised = 1;
    return 0;
}

static int new_input(Encoder *encoder, NewInput *made) {
    Input input = {0, (made->width + 63) / 64 * 64, made->height, made->format, 1};
    if (made->format != NV12 && made->format != YV12) return fails(encoder, INVALID, "Unsupported buffer format.");
    input.data = malloc((U64)input.pitch * (input.rows + 1) * 3 / 2);
    memcpy(made->buffer = malloc(sizeof input), &input, sizeof input);
    return 0;
}

static int drop_input(Encoder *encoder, Input *input) { free(input->data); free(input); return 0; }
static int new_output(Encoder *encoder, NewOutput *made) { made->buffer = calloc(1, sizeof(Output)); return 0; }
static int drop_output(Encoder *encoder, Output *output) { free(output->data); free(output); return 0; }

static int encode(Encoder *encoder, Job *job) {
    if (!encoder->initialised) return NOT_INITIALISED;
    if (job->flags & END) {
        encode_waiting(encoder, encoder->waits > 1 ? B : P);
        return 0;
    }
    if (encoder->pictures >= given("NVENC_BREAKS", 1 << 30)) return fails(encoder, GENERIC, "the encoder fell off");
    int last = encoder->pictures == 0 || job->flags & FORCE_IDR || encoder->pictures % encoder->period == 0 ? IDR
               : job->flags & FORCE_INTRA ? I : encoder->between ? B : P;
    Picture *picture = &encoder->waiting[encoder->waits];
    picture->planes = planes_of(encoder, job->input, job->pitch);
    picture->flags = job->flags;
    picture->number = job->number;
    picture->time = job->time;
    picture->duration = job->duration;
    encoder->outputs[encoder->waits++] = job->output;
    encoder->pictures++;
    if (last == B && encoder->waits <= encoder->between) return MORE_INPUT;
    encode_waiting(encoder, last);
    return 0;
}

static int lock_output(Encoder *encoder, OutputLock *lock) {
    const Output *output = lock->buffer;
    lock->data = output->data;
    lock->bytes = output->bytes;
    lock->number = output->number;
    lock->time = output->time;
    lock->duration = output->duration;
    lock->type = output->type;
    lock->structure = lock->slices = 1;
    return 0;
}

static int lock_input(Encoder *encoder, InputLock *lock) {
    lock->data = lock->buffer->data;
    lock->pitch = lock->buffer->pitch;
    return 0;
}

static int sequence(Encoder *encoder, Sequence *out) { *out->written = headers(encoder, out->buffer); return 0; }

static int map_input(Encoder *encoder, Mapping *map) {
    map->mapped = map->resource;
    map->format = map->resource->format;
    encoder->mapped++;
    return 0;
}

static int unmap_input(Encoder *encoder, Input *mapped) { encoder->mapped--; return 0; }

static int drop_encoder(Encoder *encoder) {
    const char *report = getenv("NVENC_REPORT");
    FILE *file = report ? fopen(report, "a") : 0;
    if (file && encoder->initialised)
        fprintf(file, "{\"pictures\": %u, \"width\": %u, \"registered\": %u, \"most_registered\": %u, \"left\": %u, \"mapped\": %u}\n",
                encoder->pictures, encoder->width, encoder->all_registered, encoder->most_registered,
                encoder->registered, encoder->mapped);
    if (file) fclose(file);
    for (U32 i = 0; i < encoder->waits; i++) free(encoder->waiting[i].planes);
    free(encoder);
    sessions--;
    return 0;
}

static int open_session(Opening *opening, Encoder **encoder) {
    if ((opening->api & 0xff) != API || !opening->device) return BAD_VERSION;
    if (getenv("NVENC_NONE")) return NO_DEVICE;
    if (sessions >= given("NVENC_SESSIONS", 8)) return NO_MEMORY;
    sessions++;
    *encoder = calloc(1, sizeof(Encoder));
    return 0;
}

static int register_resource(Encoder *encoder, Registration *made) {
    Input input = {made->data, made->pitch, made->height, made->format, 0};
    if (made->kind != 1 || made->format != NV12) return fails(encoder, INVALID, "Not NV12 in the memory of the card.");
    memcpy(made->resource = malloc(sizeof input), &input, sizeof input);
    encoder->all_registered++;
    if (++encoder->registered > encoder->most_registered) encoder->most_registered = encoder->registered;
    return 0;
}

static int unregister_resource(Encoder *encoder, Input *input) { free(input); encoder->registered--; return 0; }
static const char *last_error(Encoder *encoder) { return encoder->problem; }

int NvEncodeAPIGetMaxSupportedVersion(U32 *version) { *version = given("NVENC_VERSION", API) << 4; return 0; }

int NvEncodeAPICreateInstance(U32 *table) {
    void **functions = (void **)(table + 2);
    void *known[][2] = {
        {(void *)1, codec_count}, {(void *)4, codec_list}, {(void *)7, capability}, {(void *)11, initialise},
        {(void *)12, new_input}, {(void *)13, drop_input}, {(void *)14, new_output}, {(void *)15, drop_output},
        {(void *)16, encode}, {(void *)17, lock_output}, {(void *)19, lock_input}, {(void *)22, sequence},
        {(void *)25, map_input}, {(void *)26, unmap_input}, {(void *)27, drop_encoder}, {(void *)29, open_session},
        {(void *)30, register_resource}, {(void *)31, unregister_resource}, {(void *)37, last_error}, {(void *)39, preset},
    };
    for (int i = 0; i < 43; i++) functions[i] = nothing;
    for (int i = 0; i < sizeof known / sizeof *known; i++) functions[(size_t)known[i][0]] = known[i][1];
    return 0;
}
