// A CUDA driver for tests without a GPU: memory is the host's, time is a counter, and what lives is counted.
//
// Streams have a clock of their own, which advances by the work that is enqueued (`fake_work`), by copies, and by the
// launch of work on a stream that has run dry. Functions can be made to fail (`fake_fail`).
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Status;
typedef uint64_t Address;
enum {
    OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901,
};
enum { LAUNCH_NS = 50000, COPY_NS_PER_BYTE = 10 };
static const size_t MEMORY = (size_t)8 << 30;

typedef struct { int64_t ns; void *to; const void *from; size_t size; } Graph;  // one copy, which takes its time
typedef struct { int64_t now; int dry; int broken; Graph *capture; } Stream;
typedef struct { int64_t at; int recorded; } Event;

static int initialised, context;
static long live[6];
enum { BUFFERS, STREAMS, EVENTS, GRAPHS, BYTES, CONTEXTS };
static Stream default_stream;

static char failing[64];
static int failure, calls_before;

static Status checked(const char *function, int needs_context) {
    if (!initialised) return NOT_INITIALIZED;
    if (failure && !strcmp(function, failing) && calls_before-- <= 0) return failure;
    if (needs_context && !live[CONTEXTS]) return INVALID_CONTEXT;
    return OK;
}
#define CHECKED(needs_context) { Status status = checked(__func__, needs_context); if (status) return status; }
static Stream *of(Stream *stream) { return stream ? stream : &default_stream; }
static void work(Stream *stream, Graph todo) {
    memcpy(todo.to, todo.from, todo.size);
    stream->now += todo.ns + (stream->dry ? LAUNCH_NS : 0);
    stream->dry = 0;
}
static Status copy(Stream *stream, void *to, const void *from, size_t size) {
    if (of(stream)->capture) return of(stream)->broken = 1, CAPTURE_UNSUPPORTED;
    memcpy(to, from, size);
    of(stream)->now += COPY_NS_PER_BYTE * (int64_t)size;
    of(stream)->dry = 1;
    return OK;
}

// What tests ask and do
void fake_fail(const char *function, int status, int after) {
    snprintf(failing, sizeof failing, "%s", function), failure = status, calls_before = after;
}
long fake_live(int kind) { return live[kind]; }
int fake_capturing(Stream *stream) { return of(stream)->capture != 0; }
void fake_work(Stream *stream, int64_t ns, void *to, const void *from, size_t size) {
    Graph todo = {ns, to, from, size};
    if (of(stream)->capture) *of(stream)->capture = todo;
    else work(of(stream), todo);
}

// Devices and contexts
Status cuInit(unsigned flags) { initialised = 1; CHECKED(0) return OK; }
Status cuDriverGetVersion(int *version) { *version = 13000; return OK; }
Status cuDeviceGetCount(int *count) { CHECKED(0) *count = 1; return OK; }
Status cuDeviceGet(int *device, int ordinal) { CHECKED(0) *device = ordinal; return ordinal ? INVALID_DEVICE : OK; }
Status cuDeviceGetName(char *name, int size, int device) { CHECKED(0) snprintf(name, size, "Fake GPU"); return OK; }
Status cuDeviceGetUuid_v2(unsigned char *bytes, int device) {
    CHECKED(0)
    for (int i = 0; i < 16; i++) bytes[i] = (unsigned char)i;
    return OK;
}
Status cuDeviceComputeCapability(int *major, int *minor, int device) { CHECKED(0) *major = 8; *minor = 6; return OK; }
Status cuDeviceGetAttribute(int *value, int attribute, int device) { CHECKED(0) *value = 1; return OK; }
Status cuDevicePrimaryCtxRetain(void **made, int device) { CHECKED(0) *made = &context; return OK; }
Status cuDevicePrimaryCtxRelease_v2(int device) { return OK; }
Status cuCtxPushCurrent_v2(void *pushed) { CHECKED(0) live[CONTEXTS]++; return OK; }
Status cuCtxPopCurrent_v2(void **popped) { CHECKED(1) live[CONTEXTS]--; if (popped) *popped = &context; return OK; }
Status cuCtxGetDevice(int *device) { CHECKED(1) *device = 0; return OK; }
Status cuCtxGetApiVersion(void *asked, unsigned *version) { *version = 13000; return OK; }
Status cuCtxSynchronize(void) { CHECKED(1) return OK; }
Status cuCtxDetach(void *detached) { return OK; }

// Memory
Status cuMemAlloc_v2(Address *address, size_t size) {
    CHECKED(1)
    if (!size) return INVALID_VALUE;
    if (live[BYTES] + size > MEMORY) return OUT_OF_MEMORY;
    size_t *block = malloc(size + 16);
    block[0] = size;
    live[BUFFERS]++, live[BYTES] += size;
    *address = (Address)(block + 2);
    return OK;
}
Status cuMemFree_v2(Address address) {
    CHECKED(1)
    size_t *block = (size_t *)address - 2;
    live[BUFFERS]--, live[BYTES] -= block[0];
    free(block);
    return OK;
}
Status cuMemsetD8Async(Address address, unsigned char value, size_t size, Stream *stream) {
    CHECKED(1)
    memset((void *)address, value, size);
    return OK;
}
Status cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t size, Stream *stream) {
    CHECKED(1) return copy(stream, (void *)to, from, size);
}
Status cuMemcpyDtoHAsync_v2(void *to, Address from, size_t size, Stream *stream) {
    CHECKED(1) return copy(stream, to, (void *)from, size);
}

// Streams and events
Status cuStreamCreate(Stream **stream, unsigned flags) {
    CHECKED(1) *stream = calloc(1, sizeof **stream); (*stream)->dry = 1; live[STREAMS]++; return OK;
}
Status cuStreamDestroy_v2(Stream *stream) { CHECKED(1) live[STREAMS]--; free(stream); return OK; }
Status cuStreamSynchronize(Stream *stream) {
    CHECKED(1)
    if (of(stream)->capture) return of(stream)->broken = 1, CAPTURE_UNSUPPORTED;
    of(stream)->dry = 1;
    return OK;
}
Status cuEventCreate(Event **event, unsigned flags) {
    CHECKED(1) *event = calloc(1, sizeof **event); live[EVENTS]++; return OK;
}
Status cuEventDestroy_v2(Event *event) { CHECKED(1) live[EVENTS]--; free(event); return OK; }
Status cuEventRecord(Event *event, Stream *stream) {
    CHECKED(1)
    if (of(stream)->capture) return of(stream)->broken = 1, CAPTURE_UNSUPPORTED;
    event->at = of(stream)->now, event->recorded = 1;
    return OK;
}
Status cuEventElapsedTime_v2(float *milliseconds, Event *before, Event *after) {
    CHECKED(1)
    if (!before->recorded || !after->recorded) return INVALID_HANDLE;
    *milliseconds = (float)(after->at - before->at) / 1e6f;
    return OK;
}

// Graphs
Status cuStreamBeginCapture_v2(Stream *stream, int mode) {
    CHECKED(1)
    if (!stream || stream->capture) return INVALID_VALUE;
    stream->capture = calloc(1, sizeof(Graph)), stream->broken = 0, live[GRAPHS]++;
    return OK;
}
Status cuStreamEndCapture(Stream *stream, Graph **graph) {
    CHECKED(1)
    if (!stream->capture) return INVALID_VALUE;
    *graph = stream->capture, stream->capture = 0;
    if (!stream->broken) return OK;
    free(*graph), *graph = 0, live[GRAPHS]--;
    return CAPTURE_INVALIDATED;
}
Status cuGraphInstantiateWithFlags(Graph **made, Graph *graph, unsigned long long flags) {
    CHECKED(1) *made = malloc(sizeof **made); **made = *graph; live[GRAPHS]++; return OK;
}
Status cuGraphLaunch(Graph *graph, Stream *stream) { CHECKED(1) work(of(stream), *graph); return OK; }
Status cuGraphDestroy(Graph *graph) { CHECKED(1) live[GRAPHS]--; free(graph); return OK; }
Status cuGraphExecDestroy(Graph *graph) { CHECKED(1) live[GRAPHS]--; free(graph); return OK; }

// Errors, and how cuda-bindings finds all of these
Status cuGetErrorString(Status status, const char **text) {
    *text = status == OUT_OF_MEMORY ? "out of memory"
        : status == CAPTURE_UNSUPPORTED ? "operation not permitted when stream is capturing" : "a fake error";
    return OK;
}
Status cuGetErrorName(Status status, const char **text) { return cuGetErrorString(status, text); }
Status cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags, int *found) {
    Dl_info self;
    char name[128];
    dladdr((void *)cuInit, &self);
    void *library = dlopen(self.dli_fname, RTLD_NOLOAD | RTLD_LAZY);
    const char *suffixes[] = {"_v4", "_v3", "_v2", ""};
    *function = 0;
    for (int i = 0; i < 4 && !*function; i++) {
        snprintf(name, sizeof name, "%s%s", symbol, suffixes[i]);
        *function = dlsym(library, name);
    }
    dlclose(library);
    if (found) *found = *function ? 0 : 1;
    return *function ? OK : NOT_FOUND;
}
Status cuGetProcAddress(const char *symbol, void **function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(symbol, function, version, flags, 0);
}
