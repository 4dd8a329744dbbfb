/* A driver without a card: device memory is the process's own. FFmpeg looks up more names: see build.py. */
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long Device;

static char primary; /* what ONNX Runtime has made active, with the default flags, when a decoder opens */
static __thread void *current[64];
static __thread int depth;

typedef struct {
    size_t x, y;
    int kind; /* 1: host, 2: device */
    void *host;
    Device device;
    void *array;
    size_t pitch;
} Place;

typedef struct {
    Place from, to;
    size_t bytes, rows;
} Copy;

static int copy(const Copy *job) {
    const char *from = job->from.kind == 1 ? job->from.host : (void *)job->from.device;
    char *to = job->to.kind == 1 ? job->to.host : (void *)job->to.device;
    for (size_t row = 0; row < job->rows; row++)
        memcpy(to + (row + job->to.y) * job->to.pitch + job->to.x,
               from + (row + job->from.y) * job->from.pitch + job->from.x, job->bytes);
    return 0;
}

int cuMemcpy2D_v2(const Copy *job) { return copy(job); }
int cuMemcpy2DAsync_v2(const Copy *job, void *stream) { return copy(job); }
static size_t used; /* of the card's memory by FFmpeg; NVDEC_ROOM: bytes that it may have */
int cuMemAlloc_v2(Device *at, size_t bytes) {
    const char *room = getenv("NVDEC_ROOM");
    if (!depth) return 201; /* invalid context */
    if (room && used + bytes > strtoul(room, 0, 10)) return 2;
    *at = (Device)malloc(bytes);
    used += malloc_usable_size((void *)*at);
    return 0;
}
int cuMemFree_v2(Device at) { used -= malloc_usable_size((void *)at); free((void *)at); return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return number ? 101 : 0; }
int cuDeviceGetName(char *name, int bytes, int device) { strcpy(name, "a card of the tests"); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 1ull << 33; return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) { *value = 512; return 0; } /* texture alignment */
int cuDeviceComputeCapability(int *major, int *minor, int device) { *major = 8; *minor = 9; return 0; }
int cuCtxPushCurrent_v2(void *context) {
    if (!context || depth == 64) return 201;
    current[depth++] = context;
    return 0;
}
int cuCtxPopCurrent_v2(void **context) {
    if (!depth) return 201;
    depth--;
    if (context) *context = current[depth];
    return 0;
}
int cuCtxGetCurrent(void **context) { *context = depth ? current[depth - 1] : 0; return 0; }
int cuCtxCreate_v2(void **context, unsigned flags, int device) {
    *context = malloc(8);
    return cuCtxPushCurrent_v2(*context);
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = &primary;
    return getenv("NVDEC_NO_PRIMARY") ? 2 : 0;
}
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { *flags = 0; *active = 1; return 0; }
int cuGetErrorName(int error, const char **text) { *text = "CUDA_ERROR_UNKNOWN"; return 0; }
int cuGetErrorString(int error, const char **text) { *text = "the card fell off"; return 0; }
