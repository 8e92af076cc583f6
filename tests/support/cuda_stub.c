/* A libcuda.so.1 without GPUs: it tells the UUIDs that it is given, and starts at cuInit as the real one does.
 *
 * CUDA_STUB_FASTEST and CUDA_STUB_BUS hold the UUIDs in both orders, 32 hexadecimal digits each, separated by commas;
 * CUDA_DEVICE_ORDER decides between them once, at cuInit. Every call before cuInit returns 3.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID_VALUE = 1, NOT_INITIALIZED = 3, DIGITS = 32 };

static char *listed;

int cuInit(unsigned int flags) {
    const char *order = getenv("CUDA_DEVICE_ORDER");
    const char *text = getenv(order && strcmp(order, "PCI_BUS_ID") == 0 ? "CUDA_STUB_BUS" : "CUDA_STUB_FASTEST");
    if (!listed)
        listed = strdup(text ? text : "");
    return flags ? INVALID_VALUE : OK;
}

int cuDeviceGetCount(int *count) {
    if (!listed)
        return NOT_INITIALIZED;
    *count = (int)((strlen(listed) + 1) / (DIGITS + 1));
    return OK;
}

int cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return listed ? OK : NOT_INITIALIZED;
}

int cuDeviceGetUuid_v2(unsigned char *uuid, int device) {
    if (!listed)
        return NOT_INITIALIZED;
    for (int n = 0; n < DIGITS / 2; n++)
        if (sscanf(listed + device * (DIGITS + 1) + 2 * n, "%2hhx", uuid + n) != 1)
            return INVALID_VALUE;
    return OK;
}
