/* The only program of a lab guest: PID 1 of its initrd.
 *
 * Mounts its disks, and then counts: a number is written to every disk and synced, and only then
 * acknowledged on the console. So a lost write and a second running copy both show. Lines:
 *
 *   DISK <disk> mounts=<n> clean=<0|1> recovery=<0|1> recovered=<0|1> n=<counter on it>
 *   BOOT <boot id> <n on all disks>             also appended to the file `boots` of every disk
 *   ACK <boot id> <uptime s> <n>                n is durable on every disk
 *   DIRTY <boot id> <uptime s> <bytes written by the workload so far>
 *   DOWN <boot id> <n>                          after a power button, everything unmounted
 *   FAIL <boot id> <what> <errno>               never in a good run
 *
 * `recovery` is the superblock's flag before the mount, `recovered` what the kernel logged at it.
 * The kernel hands parameters that it does not know to this program's environment:
 *   disks=vda,vdb tick_ms=50 dirty_mbps=0 dirty_mb=64 dirty_disk=vda
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/input.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define DISKS_MAX 4
#define INPUTS_MAX 8
#define DEVICE_WAIT_MS_MAX 10000
#define DIRTY_BLOCK_BYTES (64 * 1024)
#define DIRTY_SYNC_BYTES (1024 * 1024)
#define SUPERBLOCK_OFFSET 1024

struct disk {
    char name[16];
    int folder, counter;
    uint64_t n;
};

static struct disk disks[DISKS_MAX];
static int disk_count;
static struct pollfd inputs[INPUTS_MAX];
static int input_count;
static char boot_id[17] = "-";

static void say(const char *format, ...)
{
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    line[length++] = '\n';
    /* One write for a line: the workload is another process. */
    if (write(1, line, length) < 0) { }
}

static void fail(const char *what)
{
    say("FAIL %s %s %d", boot_id, what, errno);
    for (;;)
        pause();
}

static int64_t uptime_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static void sleep_ms(int ms)
{
    struct timespec wait = {ms / 1000, ms % 1000 * 1000000L};
    nanosleep(&wait, NULL);
}

static long parameter(const char *name, long otherwise)
{
    const char *value = getenv(name);
    return value ? strtol(value, NULL, 10) : otherwise;
}

static void load_modules(void)
{
    struct dirent **entries;
    int count = scandir("/modules", &entries, NULL, alphasort); /* 00-virtio_ring.ko, ... */
    for (int i = 0; i < count; i++) {
        char path[300];
        if (entries[i]->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/modules/%s", entries[i]->d_name);
        int file = open(path, O_RDONLY | O_CLOEXEC);
        if (file < 0 || syscall(SYS_finit_module, file, "", 0))
            fail(entries[i]->d_name);
        close(file);
    }
}

static void open_console(void)
{
    int console = open("/dev/ttyS0", O_RDWR | O_NOCTTY);
    struct termios settings;
    if (console < 0)
        return;
    if (!tcgetattr(console, &settings)) {
        settings.c_oflag &= ~OPOST;
        tcsetattr(console, TCSANOW, &settings);
    }
    for (int i = 0; i < 3; i++)
        dup2(console, i);
    if (console > 2)
        close(console);
}

static void open_inputs(void)
{
    for (int i = 0; i < INPUTS_MAX; i++) {
        char path[32];
        snprintf(path, sizeof path, "/dev/input/event%d", i);
        int file = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        if (file >= 0)
            inputs[input_count++] = (struct pollfd){file, POLLIN, 0};
    }
}

/* Whether the power button was pressed before `until`. */
static int pressed(int64_t until)
{
    int64_t wait = until - uptime_ms();
    if (poll(inputs, input_count, wait > 0 ? wait : 0) <= 0)
        return 0;
    for (int i = 0; i < input_count; i++) {
        struct input_event event;
        while (read(inputs[i].fd, &event, sizeof event) == sizeof event)
            if (event.type == EV_KEY && event.code == KEY_POWER && event.value == 1)
                return 1;
    }
    return 0;
}

/* Whether the kernel has logged since the last call that it recovered the journal of a disk. */
static int recovered(int log, const char *name)
{
    char record[2048], wanted[64];
    int found = 0;
    ssize_t length;
    snprintf(wanted, sizeof wanted, "(%s): recovery complete", name);
    while ((length = read(log, record, sizeof record - 1)) > 0) {
        record[length] = 0;
        found |= strstr(record, wanted) != NULL;
    }
    return found;
}

static void mount_disk(struct disk *disk, int log)
{
    char device[32], folder[32], text[32] = "";
    unsigned char superblock[1024];
    snprintf(device, sizeof device, "/dev/%s", disk->name);
    snprintf(folder, sizeof folder, "/%s", disk->name);
    int raw = -1;
    for (int waited = 0; (raw = open(device, O_RDONLY | O_CLOEXEC)) < 0; waited += 10) {
        if (waited >= DEVICE_WAIT_MS_MAX)
            fail(disk->name);
        sleep_ms(10);
    }
    if (pread(raw, superblock, sizeof superblock, SUPERBLOCK_OFFSET) != sizeof superblock)
        fail("superblock");
    close(raw);
    mkdir(folder, 0755);
    recovered(log, disk->name);
    if (mount(device, folder, "ext4", MS_NOATIME, "errors=remount-ro"))
        fail("mount");
    disk->folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    disk->counter = openat(disk->folder, "counter", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (disk->counter < 0 || pread(disk->counter, text, sizeof text - 1, 0) < 0)
        fail("counter");
    disk->n = strtoull(text, NULL, 10);
    say("DISK %s mounts=%d clean=%d recovery=%d recovered=%d n=%llu", disk->name,
        superblock[0x34] | superblock[0x35] << 8, superblock[0x3a] & 1,
        superblock[0x60] >> 2 & 1, recovered(log, disk->name), (unsigned long long)disk->n);
}

static void mount_disks(void)
{
    int log = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    char *names = strdup(getenv("disks") ? getenv("disks") : "vda");
    for (char *name = strtok(names, ","); name && disk_count < DISKS_MAX; name = strtok(NULL, ",")) {
        struct disk *disk = &disks[disk_count++];
        snprintf(disk->name, sizeof disk->name, "%s", name);
        mount_disk(disk, log);
    }
    close(log);
}

static void record_boot(uint64_t n)
{
    char line[64];
    int length = snprintf(line, sizeof line, "BOOT %s %llu\n", boot_id, (unsigned long long)n);
    for (int i = 0; i < disk_count; i++) {
        int file = openat(disks[i].folder, "boots", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        if (file < 0 || write(file, line, length) != length || fsync(file) || fsync(disks[i].folder))
            fail("boots");
        close(file);
    }
    say("BOOT %s %llu", boot_id, (unsigned long long)n);
}

static void count(uint64_t n)
{
    char text[32];
    int length = snprintf(text, sizeof text, "%020llu\n", (unsigned long long)n);
    for (int i = 0; i < disk_count; i++)
        if (pwrite(disks[i].counter, text, length, 0) != length || fdatasync(disks[i].counter))
            fail("write");
    int64_t now = uptime_ms();
    say("ACK %s %lld.%03lld %llu", boot_id, now / 1000, now % 1000, (unsigned long long)n);
}

/* Writes what does not compress, over and over a file, at a steady rate. */
static void dirty(long mbps, long mb)
{
    static uint64_t block[DIRTY_BLOCK_BYTES / 8];
    const char *name = getenv("dirty_disk") ? getenv("dirty_disk") : disks[0].name;
    char path[64];
    uint64_t state, written = 0, size = (uint64_t)mb << 20;
    int64_t start = uptime_ms(), told = start;
    snprintf(path, sizeof path, "/%s/dirty", name);
    int file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (file < 0 || getrandom(&state, sizeof state, 0) != sizeof state)
        fail("dirty");
    state |= 1;
    for (;;) {
        for (size_t i = 0; i < DIRTY_BLOCK_BYTES / 8; i++) { /* xorshift64 */
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            block[i] = state;
        }
        if (pwrite(file, block, sizeof block, written % size) != sizeof block)
            fail("dirty");
        written += sizeof block;
        if (written % DIRTY_SYNC_BYTES == 0 && fdatasync(file))
            fail("dirty");
        int64_t now = uptime_ms(), due = start + (int64_t)(written / (mbps * 1000));
        if (now - told >= 1000) {
            say("DIRTY %s %lld.%03lld %llu", boot_id, now / 1000, now % 1000,
                (unsigned long long)written);
            told = now;
        }
        if (due > now)
            sleep_ms(due - now);
        else if (now - due > 1000) /* no burst after a pause */
            start += now - due;
    }
}

static void power_off(pid_t worker, uint64_t n)
{
    if (worker > 0) {
        kill(worker, SIGKILL);
        waitpid(worker, NULL, 0);
    }
    for (int i = 0; i < disk_count; i++) {
        char folder[24];
        snprintf(folder, sizeof folder, "/%s", disks[i].name);
        close(disks[i].counter);
        close(disks[i].folder);
        if (umount(folder))
            fail("umount");
    }
    sync();
    say("DOWN %s %llu", boot_id, (unsigned long long)n);
    tcdrain(1);
    reboot(RB_POWER_OFF);
}

int main(void)
{
    uint64_t id, least = UINT64_MAX, n = 0;
    mkdir("/dev", 0755);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    open_console();
    load_modules();
    if (getrandom(&id, sizeof id, 0) != sizeof id)
        fail("random");
    snprintf(boot_id, sizeof boot_id, "%016llx", (unsigned long long)id);
    open_inputs();
    mount_disks();
    for (int i = 0; i < disk_count; i++) {
        least = disks[i].n < least ? disks[i].n : least;
        n = disks[i].n > n ? disks[i].n : n; /* a number is never used twice */
    }
    record_boot(least);
    pid_t worker = 0;
    long mbps = parameter("dirty_mbps", 0);
    if (mbps > 0 && (worker = fork()) == 0)
        dirty(mbps, parameter("dirty_mb", 64));
    long tick = parameter("tick_ms", 50);
    for (int64_t next = uptime_ms();; next = uptime_ms() + tick) {
        if (pressed(next))
            power_off(worker, n);
        count(++n);
    }
}
