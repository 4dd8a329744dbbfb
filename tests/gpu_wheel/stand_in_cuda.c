/* Stand-ins for the CUDA libraries that onnxruntime-gpu loads: memory is the host's, copies are real, kernels do nothing.

   `prepare.py` compiles this file once for each library, with LIBRARY_... defined, and adds every other function that
   the wheel imports as one that returns 0. What happens is written down in lines, which `stand_in_log` gives and
   forgets: "malloc BYTES", "free BYTES", "host BYTES", "copy KIND BYTES STREAM HOST" (KIND as in CUDA: 1 is up, 2 down;
   HOST is pinned, pageable or none), "launch", "synchronize WHAT". Addresses of the device are memory of this process. */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef LIBRARY_CUDART
#include "driver_types.h"

enum { MAX_BLOCKS = 1 << 16 };
static struct { char *at; size_t size; int host; } blocks[MAX_BLOCKS];
static size_t used, peak, room = (size_t)80 << 30;
static char *text;
static size_t length;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void note(const char *format, ...) {
    char line[200];
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    text = realloc(text, length + n + 2);
    memcpy(text + length, line, n);
    length += n;
    text[length++] = '\n';
    text[length] = 0;
}

/* What has happened since the last call. The caller has it until the next call. */
const char *stand_in_log(void) {
    static char *given;
    pthread_mutex_lock(&lock);
    free(given);
    given = text ? text : calloc(1, 1);
    text = NULL;
    length = 0;
    pthread_mutex_unlock(&lock);
    return given;
}
size_t stand_in_used(void) { return used; }
size_t stand_in_peak(void) { size_t was = peak; peak = used; return was; } /* since the last call */
void stand_in_room(size_t bytes) { room = bytes; }

static int block_of(const void *p) {
    for (int i = 0; i < MAX_BLOCKS; i++)
        if (blocks[i].at && (char *)p >= blocks[i].at && (char *)p < blocks[i].at + blocks[i].size) return i;
    return -1;
}
static int give(void **p, size_t size, int host) {
    pthread_mutex_lock(&lock);
    int code = cudaSuccess;
    if (!host && used + size > room) code = cudaErrorMemoryAllocation;
    else if (posix_memalign(p, 256, size ? size : 256)) code = cudaErrorMemoryAllocation;
    if (code == cudaSuccess) {
        int i = 0;
        while (blocks[i].at) i++;
        blocks[i].at = *p;
        blocks[i].size = size ? size : 256;
        blocks[i].host = host;
        if (!host && (used += size) > peak) peak = used;
        note("%s %zu", host ? "host" : "malloc", size);
    }
    pthread_mutex_unlock(&lock);
    return code;
}
static int take(void *p) {
    if (!p) return cudaSuccess;
    pthread_mutex_lock(&lock);
    int i = block_of(p);
    if (i < 0 || blocks[i].at != p) { pthread_mutex_unlock(&lock); return cudaErrorInvalidValue; }
    if (!blocks[i].host) { used -= blocks[i].size; note("free %zu", blocks[i].size); }
    blocks[i].at = NULL;
    pthread_mutex_unlock(&lock);
    free(p);
    return cudaSuccess;
}
static int copy(void *to, const void *from, size_t size, int kind, void *stream) {
    pthread_mutex_lock(&lock);
    int a = block_of(to), b = block_of(from), host = kind == 1 ? b : a, device = kind == 1 ? a : b;
    const char *what = kind == 3 || kind == 4 ? "none" : host >= 0 && blocks[host].host ? "pinned" : "pageable";
    int bad = (kind == 1 || kind == 2) && (device < 0 || blocks[device].host);
    note("copy %d %zu %s %s", kind, size, stream ? "stream" : "default", what);
    pthread_mutex_unlock(&lock);
    if (bad) return cudaErrorInvalidValue;
    memmove(to, from, size);
    return cudaSuccess;
}
int cudaMalloc(void **p, size_t n) { return give(p, n, 0); }
int cudaMallocFromPoolAsync(void **p, size_t n, void *pool, void *stream) { return give(p, n, 0); }
int cudaHostAlloc(void **p, size_t n, unsigned flags) { return give(p, n, 1); }
int cudaMallocHost(void **p, size_t n) { return give(p, n, 1); }
int cudaFree(void *p) { return take(p); }
int cudaFreeAsync(void *p, void *stream) { return take(p); }
int cudaFreeHost(void *p) { return take(p); }
int cudaMemcpy(void *to, const void *from, size_t n, int kind) { return copy(to, from, n, kind, NULL); }
int cudaMemcpyAsync(void *to, const void *from, size_t n, int kind, void *s) { return copy(to, from, n, kind, s); }
int cudaMemset(void *p, int value, size_t n) { memset(p, value, n); return 0; }
int cudaMemsetAsync(void *p, int value, size_t n, void *s) { memset(p, value, n); return 0; }
int cudaMemGetInfo(size_t *f, size_t *t) { *f = room - used; *t = room; return 0; }
/* As a driver that is older than this CUDA where STAND_IN_OLD_DRIVER is set. */
int cudaGetDeviceCount(int *n) { *n = 1; return getenv("STAND_IN_OLD_DRIVER") ? cudaErrorInsufficientDriver : 0; }
int cudaSetDevice(int n) { return getenv("STAND_IN_OLD_DRIVER") ? cudaErrorInsufficientDriver : 0; }
int cudaGetDevice(int *n) { *n = 0; return 0; }
int cudaDriverGetVersion(int *v) { *v = 13000; return 0; }
int cudaRuntimeGetVersion(int *v) { *v = 13000; return 0; }
int cudaStreamCreate(void **s) { *s = malloc(8); return 0; }
int cudaStreamCreateWithFlags(void **s, unsigned flags) { return cudaStreamCreate(s); }
int cudaEventCreate(void **e) { *e = malloc(8); return 0; }
int cudaEventCreateWithFlags(void **e, unsigned flags) { return cudaEventCreate(e); }
int cudaEventElapsedTime(float *ms, void *a, void *b) { *ms = 1; return 0; }
const char *cudaGetErrorString(int code) {
    return code == cudaErrorInsufficientDriver ? "CUDA driver version is insufficient for CUDA runtime version"
         : code == cudaErrorMemoryAllocation ? "out of memory" : code ? "stand-in error" : "no error";
}
const char *cudaGetErrorName(int code) { return code == 2 ? "cudaErrorMemoryAllocation" : "stand-in"; }
void **__cudaRegisterFatBinary(void *p) { static void *handle[1]; return handle; }
void __cudaRegisterFunction() {}
static int noted(const char *what) {
    pthread_mutex_lock(&lock);
    note(what);
    pthread_mutex_unlock(&lock);
    return 0;
}
int cudaLaunchKernel(const void *f) { return noted("launch"); }
int cudaLaunchKernelExC(const void *c, const void *f, void **a) { return noted("launch"); }
int __cudaLaunchKernel(void *f) { return noted("launch"); }
int cudaStreamSynchronize(void *s) { return noted(s ? "synchronize stream" : "synchronize default"); }
int cudaDeviceSynchronize(void) { return noted("synchronize device"); }
int cudaDeviceGetAttribute(int *v, int attribute, int device) {
    *v = attribute == cudaDevAttrComputeCapabilityMajor ? 9 : attribute == cudaDevAttrComputeCapabilityMinor ? 0
       : attribute == cudaDevAttrMultiProcessorCount ? 132 : attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? 232448
       : attribute == cudaDevAttrMaxSharedMemoryPerBlock ? 49152 : 1024;
    return 0;
}
int cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *f) {
    memset(a, 0, sizeof *a);
    a->maxThreadsPerBlock = 1024;
    a->binaryVersion = a->ptxVersion = 90;
    return 0;
}
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n) { *n = 2; return 0; }
int cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p) {
    memset(a, 0, sizeof *a);
    pthread_mutex_lock(&lock);
    int i = block_of(p);
    a->type = i < 0 ? cudaMemoryTypeUnregistered : blocks[i].host ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
    pthread_mutex_unlock(&lock);
    a->devicePointer = a->hostPointer = (void *)p;
    return 0;
}
int cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
    memset(p, 0, sizeof *p);
    strcpy(p->name, "stand-in");
    p->totalGlobalMem = room;
    p->sharedMemPerBlock = 49152;
    p->sharedMemPerBlockOptin = 232448;
    p->sharedMemPerMultiprocessor = 233472;
    p->regsPerBlock = 65536;
    p->warpSize = 32;
    p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->major = 9;
    p->multiProcessorCount = 132;
    p->maxThreadsPerMultiProcessor = 2048;
    p->l2CacheSize = 50 << 20;
    p->asyncEngineCount = 3;
    p->concurrentKernels = p->unifiedAddressing = p->memoryPoolsSupported = 1;
    return 0;
}
#endif

#ifdef LIBRARY_CUDA
int cuInit(unsigned flags) { return 0; }
int cuDeviceGet(int *device, int number) { *device = 0; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "stand-in", size); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)80 << 30; return 0; }
/* The compute capability is 9.0, or what STAND_IN_CAPABILITY says ("10.0"). */
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    const char *given = getenv("STAND_IN_CAPABILITY"), *dot = given ? strchr(given, '.') : NULL;
    *value = attribute == 75 ? (given ? atoi(given) : 9) : attribute == 76 ? (dot ? atoi(dot + 1) : 0)
           : attribute == 16 ? 132 : 0;
    return 0;
}
#endif

#ifdef LIBRARY_CUBLAS
int cublasCreate_v2(void **handle) { *handle = (void *)16; return 0; }
const char *cublasGetStatusName(int status) { return "stand-in"; }
const char *cublasGetStatusString(int status) { return "stand-in"; }
#endif

#ifdef LIBRARY_CUBLASLT
int cublasLtCreate(void **handle) { *handle = (void *)16; return 0; }
#endif

#ifdef LIBRARY_CUDNN
enum { TYPE_DESCRIPTOR = 15, HEURISTIC_RESULTS = 202 };
int cudnnCreate(void **handle) { *handle = (void *)32; return 0; }
int cudnnBackendCreateDescriptor(int type, void **made) { *made = malloc(8); return 0; }
int cudnnBackendDestroyDescriptor(void *made) { free(made); return 0; }
/* One engine for every operation, and 0 for whatever else is asked. */
int cudnnBackendGetAttribute(void *of, int name, int type, long wanted, long *count, void *values) {
    static const int sizes[] = {8, 4, 1, 8, 4, 8, 8};
    long given = name == HEURISTIC_RESULTS || type == 3 ? 1 : 0;
    if (count) *count = given;
    if (values && wanted > 0 && type != TYPE_DESCRIPTOR) memset(values, 0, type < 7 ? sizes[type] : 4);
    return 0;
}
int cudnnCreateTensorDescriptor(void **made) { *made = malloc(8); return 0; }
int cudnnDestroyTensorDescriptor(void *made) { free(made); return 0; }
int cudnnCreateReduceTensorDescriptor(void **made) { *made = malloc(8); return 0; }
int cudnnDestroyReduceTensorDescriptor(void *made) { free(made); return 0; }
int cudnnGetReductionWorkspaceSize(void *h, void *r, void *a, void *c, size_t *size) { *size = 0; return 0; }
int cudnnGetReductionIndicesSize(void *h, void *r, void *a, void *c, size_t *size) { *size = 0; return 0; }
size_t cudnnGetVersion(void) { return 91500; }
size_t cudnnGetCudartVersion(void) { return 13000; }
const char *cudnnGetErrorString(int status) { return "stand-in"; }
void cudnnGetLastErrorString(char *text, size_t size) { snprintf(text, size, "stand-in"); }
#endif
