/* A libnvidia-ml.so.1 that tells of made-up cards, so that the real Python binding can be run without any.
 *
 * The variable NVML_STUB, or the file that NVML_STUB_FILE names and that is read again at each init, holds one line per
 * thing, fields separated by tabs:
 *   init=CODE            what nvmlInitWithFlags returns (default 0)
 *   hang=SECONDS         how long nvmlInitWithFlags takes (default 0)
 *   count=CODE           what nvmlDeviceGetCount_v2 returns
 *   card  key=value ...  a card; keys as in `struct device`, *_error being the code that call returns
 *   mig   key=value ...  an instance at `slot` of the card above it
 *   process  pid=, memory=, kind=compute|graphics|mps   on the card or instance above it
 * Every call before init returns 1 (uninitialized), as the real library does. Built with -DOLD_DRIVER it lacks the third
 * version of the process calls and the second of the memory call, as drivers before R510 do.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
       INSUFFICIENT_SIZE = 7, VERSION_MISMATCH = 25 };
enum { MOST_CARDS = 16, MOST_INSTANCES = 8, MOST_PROCESSES = 32, TEXT = 96 };
enum kind { COMPUTE, GRAPHICS, MPS };

struct process { unsigned int pid; unsigned long long memory; enum kind kind; };

struct device {
    char uuid[TEXT], name[TEXT];
    unsigned long long total, reserved, used;
    int mode, mig, pending, slots, slot, gi, ci, virtualization, sessions, capability;
    int handle_error, uuid_error, name_error, v1_error, v2_error, mode_error, mig_error, slots_error;
    int ids_error, processes_error, graphics_error, virtualization_error, sessions_error;
    int instance_count, process_count;
    struct device *instances[MOST_INSTANCES];
    struct process processes[MOST_PROCESSES];
};

struct memory { unsigned long long total, free, used; };
struct memory_v2 { unsigned int version; unsigned long long total, reserved, free, used; };
struct listed { unsigned int pid; unsigned long long memory; unsigned int gi, ci; };

static struct device *cards[MOST_CARDS];
static int card_count, count_error, initialized;

static void set(struct device *device, const char *key, const char *value) {
    struct { const char *key; int *field; } numbers[] = {
        {"mode", &device->mode}, {"mig", &device->mig}, {"pending", &device->pending}, {"slots", &device->slots},
        {"slot", &device->slot}, {"handle_error", &device->handle_error}, {"uuid_error", &device->uuid_error},
        {"name_error", &device->name_error}, {"v1_error", &device->v1_error}, {"v2_error", &device->v2_error},
        {"mode_error", &device->mode_error}, {"mig_error", &device->mig_error}, {"slots_error", &device->slots_error},
        {"gi", &device->gi}, {"ci", &device->ci}, {"ids_error", &device->ids_error},
        {"processes_error", &device->processes_error}, {"graphics_error", &device->graphics_error},
        {"virtualization", &device->virtualization},
        {"virtualization_error", &device->virtualization_error}, {"sessions", &device->sessions},
        {"sessions_error", &device->sessions_error}, {"capability", &device->capability},
    };
    if (!strcmp(key, "uuid")) snprintf(device->uuid, TEXT, "%s", value);
    else if (!strcmp(key, "name")) snprintf(device->name, TEXT, "%s", value);
    else if (!strcmp(key, "total")) device->total = strtoull(value, NULL, 10);
    else if (!strcmp(key, "reserved")) device->reserved = strtoull(value, NULL, 10);
    else if (!strcmp(key, "used")) device->used = strtoull(value, NULL, 10);
    else {
        for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
            if (!strcmp(key, numbers[i].key)) { *numbers[i].field = atoi(value); return; }
        fprintf(stderr, "nvml_stub: no such key: %s\n", key);
        abort();
    }
}

static struct device *read_device(char **fields) {
    struct device *device = calloc(1, sizeof *device);
    for (char *field; device && (field = strtok_r(NULL, "\t", fields));) {
        char *equals = strchr(field, '=');
        if (!equals) abort();
        *equals = 0;
        set(device, field, equals + 1);
    }
    return device;
}

static void read_process(struct device *device, char **fields) {
    if (!device || device->process_count == MOST_PROCESSES) abort();
    struct process *process = &device->processes[device->process_count++];
    for (char *field; (field = strtok_r(NULL, "\t", fields));) {
        if (!strncmp(field, "pid=", 4)) process->pid = (unsigned)strtoul(field + 4, NULL, 10);
        else if (!strncmp(field, "memory=", 7)) process->memory = strtoull(field + 7, NULL, 10);
        else if (!strcmp(field, "kind=compute")) process->kind = COMPUTE;
        else if (!strcmp(field, "kind=graphics")) process->kind = GRAPHICS;
        else if (!strcmp(field, "kind=mps")) process->kind = MPS;
        else abort();
    }
}

static char *read_text(void) {
    const char *path = getenv("NVML_STUB_FILE"), *told = getenv("NVML_STUB");
    if (!path) return strdup(told ? told : "");
    char *text = NULL;
    size_t size = 0;
    FILE *file = fopen(path, "r");
    if (!file || getdelim(&text, &size, 0, file) < 0) abort();
    fclose(file);
    return text;
}

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static int read_machine(void) {
    char *text = read_text(), *lines = NULL;
    struct device *latest = NULL;
    int init_error = 0;
    card_count = count_error = 0;
    for (char *line = strtok_r(text, "\n", &lines); line; line = strtok_r(NULL, "\n", &lines)) {
        char *fields = NULL, *word = strtok_r(line, "\t", &fields);
        if (!strncmp(word, "init=", 5)) init_error = atoi(word + 5);
        else if (!strncmp(word, "hang=", 5)) sleep((unsigned)atoi(word + 5));
        else if (!strncmp(word, "count=", 6)) count_error = atoi(word + 6);
        else if (!strcmp(word, "card") && card_count < MOST_CARDS) latest = cards[card_count++] = read_device(&fields);
        else if (!strcmp(word, "process")) read_process(latest, &fields);
        else if (!strcmp(word, "mig") && card_count && cards[card_count - 1]->instance_count < MOST_INSTANCES) {
            struct device *card = cards[card_count - 1];
            latest = card->instances[card->instance_count++] = read_device(&fields);
        } else abort();
    }
    free(text);
    return init_error;
}

/* Several threads may use the real library at once, and it counts who does: what one of them reads stays as it is. */
int nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    pthread_mutex_lock(&gate);
    int init_error = initialized ? OK : read_machine();
    if (!init_error) initialized++;
    pthread_mutex_unlock(&gate);
    return init_error;
}

int nvmlShutdown(void) {
    pthread_mutex_lock(&gate);
    int result = initialized ? (initialized--, OK) : UNINITIALIZED;
    pthread_mutex_unlock(&gate);
    return result;
}

const char *nvmlErrorString(int code) {
    /* The binding's own words where the library has none, so that both doubles say the same. */
    static char words[TEXT];
    snprintf(words, TEXT, "NVML Error with code %d", code);
    return words;
}

static int answer(int error) { return initialized ? error : UNINITIALIZED; }

int nvmlDeviceGetCount_v2(unsigned int *count) { *count = (unsigned)card_count; return answer(count_error); }

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, struct device **handle) {
    if (index >= (unsigned)card_count) return answer(INVALID_ARGUMENT);
    *handle = cards[index];
    return answer(cards[index]->handle_error);
}

static int put(const char *text, char *buffer, unsigned int size, int error) {
    if (strlen(text) >= size) return answer(INSUFFICIENT_SIZE);
    strcpy(buffer, text);
    return answer(error);
}

int nvmlDeviceGetUUID(struct device *d, char *buffer, unsigned int size) { return put(d->uuid, buffer, size, d->uuid_error); }
int nvmlDeviceGetName(struct device *d, char *buffer, unsigned int size) { return put(d->name, buffer, size, d->name_error); }

int nvmlDeviceGetMemoryInfo(struct device *d, struct memory *memory) {
    memory->total = d->total;
    memory->used = d->reserved + d->used;
    memory->free = memory->total - memory->used;
    return answer(d->v1_error);
}

#ifndef OLD_DRIVER
int nvmlDeviceGetMemoryInfo_v2(struct device *d, struct memory_v2 *memory) {
    if (memory->version != (2u << 24 | sizeof *memory)) return answer(VERSION_MISMATCH);
    memory->total = d->total;
    memory->reserved = d->reserved;
    memory->used = d->used;
    memory->free = d->total - d->reserved - d->used;
    return answer(d->v2_error);
}
#endif

int nvmlDeviceGetCudaComputeCapability(struct device *d, int *major, int *minor) {
    *major = d->capability / 10;
    *minor = d->capability % 10;
    return answer(d->capability ? OK : NOT_SUPPORTED);
}
int nvmlDeviceGetComputeMode(struct device *d, int *mode) { *mode = d->mode; return answer(d->mode_error); }

int nvmlDeviceGetMigMode(struct device *d, unsigned int *now, unsigned int *pending) {
    *now = (unsigned)d->mig;
    *pending = (unsigned)d->pending;
    return answer(d->mig_error);
}

int nvmlDeviceGetMaxMigDeviceCount(struct device *d, unsigned int *count) {
    *count = (unsigned)d->slots;
    return answer(d->slots_error);
}

int nvmlDeviceGetMigDeviceHandleByIndex(struct device *d, unsigned int slot, struct device **handle) {
    for (int i = 0; i < d->instance_count; i++)
        if ((unsigned)d->instances[i]->slot == slot) {
            *handle = d->instances[i];
            return answer(d->instances[i]->handle_error);
        }
    return answer(NOT_FOUND);
}

int nvmlDeviceGetGpuInstanceId(struct device *d, unsigned int *id) { *id = (unsigned)d->gi; return answer(d->ids_error); }
int nvmlDeviceGetComputeInstanceId(struct device *d, unsigned int *id) { *id = (unsigned)d->ci; return answer(d->ids_error); }

int nvmlDeviceGetVirtualizationMode(struct device *d, int *mode) {
    *mode = d->virtualization;
    return answer(d->virtualization_error);
}

int nvmlDeviceGetEncoderStats(struct device *d, unsigned int *sessions, unsigned int *fps, unsigned int *latency) {
    *sessions = (unsigned)d->sessions;
    *fps = *latency = 0;
    return answer(d->sessions_error);
}

static int list(struct device *d, unsigned int *count, struct listed *entries, enum kind kind) {
    unsigned int room = *count;
    if (d->processes_error) return answer(d->processes_error);
    if (kind == GRAPHICS && d->graphics_error) return answer(d->graphics_error);
    *count = 0;
    for (int i = 0; i < d->process_count; i++) {
        if (d->processes[i].kind != kind) continue;
        if (*count < room && entries)
            entries[*count] = (struct listed){d->processes[i].pid, d->processes[i].memory, (unsigned)d->gi, (unsigned)d->ci};
        ++*count;
    }
    return answer(*count > room ? INSUFFICIENT_SIZE : OK);
}

#define LIST(name, kind) int name(struct device *d, unsigned int *n, struct listed *e) { return list(d, n, e, kind); }
LIST(nvmlDeviceGetComputeRunningProcesses_v2, COMPUTE)
LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, GRAPHICS)
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v2, MPS)
#ifndef OLD_DRIVER
LIST(nvmlDeviceGetComputeRunningProcesses_v3, COMPUTE)
LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, GRAPHICS)
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, MPS)
#endif
