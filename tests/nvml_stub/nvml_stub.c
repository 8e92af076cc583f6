/* A libnvidia-ml.so.1 that tells of made-up cards, so that the real Python binding can be run without any.
 *
 * The variable NVML_STUB holds one line per thing, fields separated by tabs:
 *   init=CODE            what nvmlInitWithFlags returns (default 0)
 *   count=CODE           what nvmlDeviceGetCount_v2 returns
 *   card  key=value ...  a card; keys as in `struct device`, *_error being the code that call returns
 *   mig   key=value ...  an instance at `slot` of the card above it
 * Every call before init returns 1 (uninitialized), as the real library does.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, VERSION_MISMATCH = 25 };
enum { MOST_CARDS = 16, MOST_INSTANCES = 8, TEXT = 96 };

struct device {
    char uuid[TEXT], name[TEXT];
    unsigned long long total, reserved;
    int mode, mig, pending, slots, slot;
    int handle_error, uuid_error, name_error, v1_error, v2_error, mode_error, mig_error, slots_error;
    int instance_count;
    struct device *instances[MOST_INSTANCES];
};

struct memory { unsigned long long total, free, used; };
struct memory_v2 { unsigned int version; unsigned long long total, reserved, free, used; };

static struct device *cards[MOST_CARDS];
static int card_count, count_error, initialized;

static void set(struct device *device, const char *key, const char *value) {
    struct { const char *key; int *field; } numbers[] = {
        {"mode", &device->mode}, {"mig", &device->mig}, {"pending", &device->pending}, {"slots", &device->slots},
        {"slot", &device->slot}, {"handle_error", &device->handle_error}, {"uuid_error", &device->uuid_error},
        {"name_error", &device->name_error}, {"v1_error", &device->v1_error}, {"v2_error", &device->v2_error},
        {"mode_error", &device->mode_error}, {"mig_error", &device->mig_error}, {"slots_error", &device->slots_error},
    };
    if (!strcmp(key, "uuid")) snprintf(device->uuid, TEXT, "%s", value);
    else if (!strcmp(key, "name")) snprintf(device->name, TEXT, "%s", value);
    else if (!strcmp(key, "total")) device->total = strtoull(value, NULL, 10);
    else if (!strcmp(key, "reserved")) device->reserved = strtoull(value, NULL, 10);
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

int nvmlInitWithFlags(unsigned int flags) {
    const char *told = getenv("NVML_STUB");
    char *text = strdup(told ? told : ""), *lines = NULL;
    int init_error = 0;
    (void)flags;
    card_count = count_error = 0;
    for (char *line = strtok_r(text, "\n", &lines); line; line = strtok_r(NULL, "\n", &lines)) {
        char *fields = NULL, *word = strtok_r(line, "\t", &fields);
        if (!strncmp(word, "init=", 5)) init_error = atoi(word + 5);
        else if (!strncmp(word, "count=", 6)) count_error = atoi(word + 6);
        else if (!strcmp(word, "card") && card_count < MOST_CARDS) cards[card_count++] = read_device(&fields);
        else if (!strcmp(word, "mig") && card_count && cards[card_count - 1]->instance_count < MOST_INSTANCES) {
            struct device *card = cards[card_count - 1];
            card->instances[card->instance_count++] = read_device(&fields);
        } else abort();
    }
    free(text);
    if (!init_error) initialized++;
    return init_error;
}

int nvmlShutdown(void) { return initialized ? (initialized--, OK) : UNINITIALIZED; }

const char *nvmlErrorString(int code) { (void)code; return "a code this stub was told to return"; }

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
    memory->used = d->reserved;
    memory->free = d->total - d->reserved;
    return answer(d->v1_error);
}

int nvmlDeviceGetMemoryInfo_v2(struct device *d, struct memory_v2 *memory) {
    if (memory->version != (2u << 24 | sizeof *memory)) return answer(VERSION_MISMATCH);
    memory->total = d->total;
    memory->reserved = d->reserved;
    memory->used = 0;
    memory->free = d->total - d->reserved;
    return answer(d->v2_error);
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
