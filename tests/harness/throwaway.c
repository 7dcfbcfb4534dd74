#include "throwaway.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define START_SECONDS 20
#define OUTPUT_MAX ((size_t)4 << 20)

double fleet_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

void fleet_pause_ms(long ms)
{
    const struct timespec pause = {ms / 1000, ms % 1000 * 1000000};

    nanosleep(&pause, NULL);
}

static bool fail(struct fleet *fleet, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static bool fail(struct fleet *fleet, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(fleet->error, sizeof fleet->error, fmt, args);
    va_end(args);
    return false;
}

/* Programs lie in $FROSTLINE_BIN, or beside this one. */
static void program_path(char *out, size_t size, const char *name)
{
    const char *bin = getenv("FROSTLINE_BIN");
    char dir[FLEET_PATH];

    if (bin && *bin) {
        snprintf(out, size, "%s/%s", bin, name);
        return;
    }
    const ssize_t len = readlink("/proc/self/exe", dir, sizeof dir - 1);
    dir[len > 0 ? len : 0] = '\0';
    char *slash = strrchr(dir, '/');
    if (slash)
        *slash = '\0';
    snprintf(out, size, "%s/%s", dir, name);
}

bool fleet_init(struct fleet *fleet)
{
    const char *base = getenv("TMPDIR");
    char path[FLEET_PATH];

    *fleet = (struct fleet){0};
    snprintf(fleet->root, sizeof fleet->root, "%s/frostline-fleet-XXXXXX",
             base && *base ? base : "/tmp");
    if (!mkdtemp(fleet->root))
        return fail(fleet, "cannot make '%s': %s", fleet->root, strerror(errno));
    snprintf(fleet->server_dir, sizeof fleet->server_dir, "%s/coordinator", fleet->root);
    snprintf(path, sizeof path, "%s/log", fleet->root);
    if (mkdir(path, 0700) < 0)
        return fail(fleet, "cannot make '%s': %s", path, strerror(errno));
    return true;
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info;
    (void)type;
    (void)walk;
    return remove(path);
}

static void end_process(pid_t *pid, int signal_number)
{
    if (*pid <= 0)
        return;
    kill(*pid, signal_number);
    for (int i = 0; i < 500; i++) { /* five seconds, then the hard way */
        if (waitpid(*pid, NULL, WNOHANG) != 0) {
            *pid = 0;
            return;
        }
        fleet_pause_ms(10);
    }
    kill(*pid, SIGKILL);
    waitpid(*pid, NULL, 0);
    *pid = 0;
}

void fleet_release(struct fleet *fleet)
{
    for (size_t i = 0; i < fleet->device_count; i++)
        end_process(&fleet->devices[i].pid, SIGTERM);
    end_process(&fleet->server, SIGTERM);
    if (fleet->root[0] && !fleet->keep)
        nftw(fleet->root, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    fleet->root[0] = '\0';
}

/* Starts a program with stdout on `out` and stderr appended to `log` (NULL: ours). It dies with
 * us. */
static pid_t start(const char *const *argv, int out, const char *log)
{
    char path[FLEET_PATH + 64];
    const pid_t parent = getpid();

    program_path(path, sizeof path, argv[0]);
    fflush(NULL);
    const pid_t pid = fork();
    if (pid != 0)
        return pid;
    const int null = open("/dev/null", O_RDWR);
    const int error = log ? open(log, O_WRONLY | O_CREAT | O_APPEND, 0600) : 2;
    dup2(null, 0);
    dup2(out >= 0 ? out : null, 1);
    dup2(error, 2);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(127);
    execv(path, (char *const *)(uintptr_t)argv);
    dprintf(2, "cannot run '%s': %s\n", path, strerror(errno));
    _exit(127);
}

static char *read_all(int fd)
{
    size_t room = 65536, used = 0;
    char *text = malloc(room);

    while (text) {
        if (used + 1 == room) {
            char *more = room < OUTPUT_MAX ? realloc(text, room * 2) : NULL;
            if (!more)
                break;
            text = more;
            room *= 2;
        }
        const ssize_t got = read(fd, text + used, room - 1 - used);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        used += (size_t)got;
    }
    if (text)
        text[used] = '\0';
    return text;
}

static void log_path(char *out, size_t size, const struct fleet *fleet, const char *const *argv)
{
    snprintf(out, size, "%s/log/%s-%s.log", fleet->root, argv[0], argv[1] ? argv[1] : "");
}

/* The last line of a log, which is where our programs say what went wrong. */
static void last_line(char *out, size_t size, const char *log)
{
    char tail[2048];
    const int fd = open(log, O_RDONLY);
    ssize_t got = 0;

    out[0] = '\0';
    if (fd < 0)
        return;
    const off_t end = lseek(fd, 0, SEEK_END);
    lseek(fd, end > (off_t)sizeof tail - 1 ? end - (off_t)sizeof tail + 1 : 0, SEEK_SET);
    got = read(fd, tail, sizeof tail - 1);
    close(fd);
    tail[got > 0 ? got : 0] = '\0';
    while (got > 0 && tail[got - 1] == '\n')
        tail[--got] = '\0';
    const char *line = strrchr(tail, '\n');
    snprintf(out, size, "%s", line ? line + 1 : tail);
}

int fleet_run(struct fleet *fleet, char **out, const char *const *argv)
{
    char log[FLEET_PATH], line[700];
    int pipes[2], status = 0;
    pid_t pid;

    if (out)
        *out = NULL;
    if (pipe2(pipes, O_CLOEXEC) < 0)
        return -1;
    log_path(log, sizeof log, fleet, argv);
    pid = start(argv, pipes[1], fleet->talk ? NULL : log);
    close(pipes[1]);
    char *text = read_all(pipes[0]);
    close(pipes[0]);
    if (pid < 0 || waitpid(pid, &status, 0) < 0)
        status = -1;
    else
        status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (status) {
        last_line(line, sizeof line, log);
        fail(fleet, "%s %s: exit status %d: %s", argv[0], argv[1] ? argv[1] : "", status, line);
    }
    if (out)
        *out = text;
    else
        free(text);
    return status;
}

json_t *fleet_run_json(struct fleet *fleet, const char *const *argv)
{
    char *text = NULL;
    json_error_t where;
    json_t *json = NULL;

    if (fleet_run(fleet, &text, argv) == 0) {
        json = json_loads(text ? text : "", JSON_REJECT_DUPLICATES, &where);
        if (!json)
            fail(fleet, "%s %s: not JSON: %s", argv[0], argv[1], where.text);
    }
    free(text);
    return json;
}

/* ---- the coordinator ---- */

bool fleet_server_init(struct fleet *fleet)
{
    return FLEET_RUN(fleet, NULL, "frostline-server", "init", "--dir", fleet->server_dir, "--name",
                     "127.0.0.1") == 0;
}

static size_t add_arguments(const char **argv, size_t count, size_t room, const char *const *extra)
{
    for (; extra && *extra && count + 1 < room; extra++)
        argv[count++] = *extra;
    argv[count] = NULL;
    return count;
}

static bool read_port(const char *path, int *port)
{
    FILE *file = fopen(path, "r");
    const bool ok = file && fscanf(file, "%d", port) == 1 && *port > 0;

    if (file)
        fclose(file);
    return ok;
}

static bool make_token(struct fleet *fleet)
{
    char *text = NULL;
    const bool ok = FLEET_RUN(fleet, &text, "frostline-server", "token", "--dir", fleet->server_dir,
                              "--uses", "100") == 0;

    if (ok) {
        snprintf(fleet->token, sizeof fleet->token, "%s", text);
        fleet->token[strcspn(fleet->token, "\r\n")] = '\0';
    }
    free(text);
    return ok;
}

bool fleet_server_start(struct fleet *fleet, const char *const *extra)
{
    char port_file[FLEET_PATH + 16], listen[64], log[FLEET_PATH], line[700];
    const char *argv[32] = {"frostline-server", "run",  "--dir",       fleet->server_dir,
                            "--listen",         listen, "--port-file", port_file};
    const double until = fleet_seconds() + START_SECONDS;
    int port = 0;

    /* The first start takes a free port; a restart takes the same again, since devices know it. */
    snprintf(listen, sizeof listen, "%s",
             fleet->url[0] ? fleet->url + strlen("https://") : "127.0.0.1:0");
    snprintf(port_file, sizeof port_file, "%s/port", fleet->root);
    unlink(port_file);
    add_arguments(argv, 8, 32, extra);
    log_path(log, sizeof log, fleet, argv);
    fleet->server = start(argv, -1, log);
    while (!read_port(port_file, &port)) {
        if (waitpid(fleet->server, NULL, WNOHANG) != 0 || fleet_seconds() > until) {
            last_line(line, sizeof line, log);
            end_process(&fleet->server, SIGKILL);
            return fail(fleet, "the coordinator did not start: %s", line);
        }
        fleet_pause_ms(20);
    }
    snprintf(fleet->url, sizeof fleet->url, "https://127.0.0.1:%d", port);
    return fleet->token[0] || make_token(fleet);
}

bool fleet_server_stop(struct fleet *fleet, int signal_number)
{
    end_process(&fleet->server, signal_number);
    return true;
}

bool fleet_publish(struct fleet *fleet, const char *model_file)
{
    return FLEET_RUN(fleet, NULL, "frostline-server", "publish", "--dir", fleet->server_dir,
                     model_file) == 0;
}

/* ---- devices ---- */

struct fleet_device *fleet_enrol(struct fleet *fleet, const char *name, const char *exemplars)
{
    char ca[FLEET_PATH + 16], dir[FLEET_PATH];
    struct fleet_device *device = &fleet->devices[fleet->device_count];
    const char *argv[32] = {"frostline-agent", "enrol", "--dir", device->dir, "--server",
                            fleet->url,        "--ca",  ca,      "--token",   fleet->token,
                            "--device",        name,    NULL};

    if (fleet->device_count == FLEET_MAX_DEVICES) {
        fail(fleet, "more than %d devices", FLEET_MAX_DEVICES);
        return NULL;
    }
    *device = (struct fleet_device){.pid = 0};
    snprintf(device->name, sizeof device->name, "%s", name);
    snprintf(dir, sizeof dir, "%s/%s", fleet->root, name);
    memcpy(device->dir, dir, sizeof dir);
    snprintf(ca, sizeof ca, "%s/ca.pem", fleet->server_dir);
    if (exemplars)
        add_arguments(argv, 12, 32, (const char *const[]){"--exemplars", exemplars, NULL});
    if (fleet_run(fleet, NULL, argv) != 0)
        return NULL;
    fleet->device_count++;
    return device;
}

bool fleet_device_start(struct fleet *fleet, struct fleet_device *device, const char *const *extra)
{
    const char *argv[32] = {"frostline-agent", "run", "--dir", device->dir};
    char log[FLEET_PATH];

    add_arguments(argv, 4, 32, extra);
    snprintf(log, sizeof log, "%s/log/%s.log", fleet->root, device->name);
    device->pid = start(argv, -1, log);
    return device->pid > 0 || fail(fleet, "cannot start '%s'", device->name);
}

bool fleet_device_stop(struct fleet *fleet, struct fleet_device *device, int signal_number)
{
    (void)fleet;
    end_process(&device->pid, signal_number);
    return true;
}

json_t *fleet_device_status(struct fleet *fleet, const struct fleet_device *device)
{
    return FLEET_JSON(fleet, "frostline-agent", "status", "--dir", device->dir, "--json");
}

bool fleet_drop(struct fleet *fleet, const struct fleet_device *device, const char *class_dir,
                const char *class_name)
{
    char to[FLEET_PATH + 100];

    snprintf(to, sizeof to, "%s/inbox/%s", device->dir, class_name);
    if (rename(class_dir, to) < 0)
        return fail(fleet, "cannot move '%s' to '%s': %s", class_dir, to, strerror(errno));
    return true;
}

bool fleet_alive(struct fleet *fleet)
{
    char log[FLEET_PATH], line[700];
    int status;

    if (fleet->server > 0 && waitpid(fleet->server, &status, WNOHANG) != 0) {
        fleet->server = 0;
        snprintf(log, sizeof log, "%s/log/frostline-server-run.log", fleet->root);
        last_line(line, sizeof line, log);
        return fail(fleet, "the coordinator has ended: %s", line);
    }
    for (size_t i = 0; i < fleet->device_count; i++) {
        struct fleet_device *device = &fleet->devices[i];
        if (device->pid > 0 && waitpid(device->pid, &status, WNOHANG) != 0) {
            device->pid = 0;
            snprintf(log, sizeof log, "%s/log/%s.log", fleet->root, device->name);
            last_line(line, sizeof line, log);
            return fail(fleet, "device '%s' has ended: %s", device->name, line);
        }
    }
    return true;
}
