/* A throw-away fleet of real processes on this machine: CA, coordinator, devices. Shared by the
 * demonstration and the end-to-end tests; free of cmocka. Everything lies below one directory and
 * every process is ended by fleet_release(). Functions return false and keep one line in
 * fleet->error when something went wrong. One thread. */
#ifndef THROWAWAY_H
#define THROWAWAY_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define FLEET_MAX_DEVICES 8
#define FLEET_PATH 400

struct fleet_device {
    char name[64];
    char dir[FLEET_PATH];
    pid_t pid; /* 0: not running */
};

struct fleet {
    char root[FLEET_PATH - 100]; /* scratch directory, removed at release unless keep */
    bool keep;
    bool talk; /* programs that fleet_run() runs talk on our stderr instead of into a log */
    char server_dir[FLEET_PATH];
    char url[64];
    char token[256];
    pid_t server; /* 0: not running */
    struct fleet_device devices[FLEET_MAX_DEVICES];
    size_t device_count;
    char error[1024];
};

/* Makes the scratch directory below $TMPDIR or /tmp. */
bool fleet_init(struct fleet *fleet);
void fleet_release(struct fleet *fleet);

/* Runs one of our programs to its end. argv[0] is the program's name; NULL-terminated.
 *   out   NULL, or the program's stdout, NUL-terminated, to be freed by the caller
 *   stderr goes to <root>/log/<argv0>-<argv1>.log; its last line becomes fleet->error on failure.
 * Returns the exit status, 128+signal, or -1. */
int fleet_run(struct fleet *fleet, char **out, const char *const *argv);
#define FLEET_RUN(fleet, out, ...) fleet_run(fleet, out, (const char *const[]){__VA_ARGS__, NULL})

/* The same for a program that prints one JSON object; NULL on any failure. json_decref() it. */
json_t *fleet_run_json(struct fleet *fleet, const char *const *argv);
#define FLEET_JSON(fleet, ...) fleet_run_json(fleet, (const char *const[]){__VA_ARGS__, NULL})

/* `frostline-server init`, `run` on a free port of 127.0.0.1, until it answers; a token. Extra
 * arguments for run may be given, NULL-terminated. */
bool fleet_server_init(struct fleet *fleet);
bool fleet_server_start(struct fleet *fleet, const char *const *extra);
bool fleet_server_stop(struct fleet *fleet, int signal);
bool fleet_publish(struct fleet *fleet, const char *model_file);

/* Enrols a device; exemplars may be NULL. */
struct fleet_device *fleet_enrol(struct fleet *fleet, const char *name, const char *exemplars);
/* `frostline-agent run` in the background; extra arguments NULL-terminated or NULL. */
bool fleet_device_start(struct fleet *fleet, struct fleet_device *device, const char *const *extra);
bool fleet_device_stop(struct fleet *fleet, struct fleet_device *device, int signal);
/* `frostline-agent status --json`; NULL on failure. */
json_t *fleet_device_status(struct fleet *fleet, const struct fleet_device *device);
/* Puts a folder of class images into the inbox in one rename. */
bool fleet_drop(struct fleet *fleet, const struct fleet_device *device, const char *class_dir,
                const char *class_name);

/* False, with fleet->error set, when the coordinator or a started device has ended by itself. */
bool fleet_alive(struct fleet *fleet);

double fleet_seconds(void); /* monotonic */
void fleet_pause_ms(long ms);

#endif
