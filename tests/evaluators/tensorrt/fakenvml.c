// NVIDIA's management library for tests without a GPU: one GPU that is hot, and two processes on it.
#include <string.h>
#include <unistd.h>

typedef int Status;
typedef struct { unsigned pid; unsigned long long memory; unsigned instance, part; } Process;
enum { OK = 0, NOT_FOUND = 6, TOO_SMALL = 7 };

Status nvmlInitWithFlags(unsigned flags) { return OK; }
Status nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(Status status) { return "a fake error"; }
Status nvmlDeviceGetHandleByUUID(const char *uuid, void **gpu) {
    *gpu = (void *)1;
    return strcmp(uuid, "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f") ? NOT_FOUND : OK;
}
Status nvmlDeviceGetClockInfo(void *gpu, int kind, unsigned *clock) { *clock = kind == 2 ? 9501 : 1410; return OK; }
Status nvmlDeviceGetTemperature(void *gpu, int sensor, unsigned *celsius) { *celsius = 83; return OK; }
Status nvmlDeviceGetCurrentClocksEventReasons(void *gpu, unsigned long long *reasons) { *reasons = 0x24; return OK; }
Status nvmlDeviceGetComputeRunningProcesses_v3(void *gpu, unsigned *count, Process *processes) {
    unsigned room = *count;
    *count = 2;
    if (room < 2) return TOO_SMALL;
    processes[0] = (Process){.pid = (unsigned)getpid()};
    processes[1] = (Process){.pid = 1};
    return OK;
}
