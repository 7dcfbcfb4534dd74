/* `frostline VERB ...` runs `frostline-VERB ...`, in git's manner: first beside this program,
 * then in PATH. It knows no verb itself but lists the ones it finds. */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void own_dir(char *out, size_t size)
{
    const ssize_t len = readlink("/proc/self/exe", out, size - 1);

    out[len > 0 ? len : 0] = '\0';
    char *slash = strrchr(out, '/');
    if (slash)
        *slash = '\0';
}

static int help(FILE *out, const char *dir)
{
    DIR *handle = opendir(dir);
    const struct dirent *entry;

    fprintf(out, "usage: frostline VERB ...\n\nFleet software for devices that learn new image "
                 "classes on the spot.\n\nverbs found beside this program:\n");
    while (handle && (entry = readdir(handle)))
        if (strncmp(entry->d_name, "frostline-", 10) == 0)
            fprintf(out, "  %s\n", entry->d_name + 10);
    if (handle)
        closedir(handle);
    fprintf(out, "\n'frostline VERB --help' tells more. --version shows the version.\n");
    return out == stdout ? 0 : 2;
}

/* Completion: the first word from the programs found, the rest by the program's own function. */
static int print_bash(void)
{
    printf("# bash completion of frostline: hands over to that of frostline-VERB\n"
           "_frostline()\n{\n"
           "    local cur=${COMP_WORDS[COMP_CWORD]} verb=${COMP_WORDS[1]}\n"
           "    if ((COMP_CWORD == 1)); then\n"
           "        local words='--help --version' path\n"
           "        for path in \"$(dirname \"$(command -v -- "
           "\"${COMP_WORDS[0]}\")\")\"/frostline-*; do\n"
           "            words+=\" ${path##*/frostline-}\"\n"
           "        done\n"
           "        mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n"
           "        return\n"
           "    fi\n"
           "    declare -F \"_frostline_$verb\" >/dev/null || _completion_loader "
           "\"frostline-$verb\" 2>/dev/null\n"
           "    declare -F \"_frostline_$verb\" >/dev/null && \"_frostline_$verb\" 2\n"
           "}\ncomplete -F _frostline frostline\n");
    return 0;
}

int main(int argc, char **argv)
{
    char dir[PATH_MAX];
    char path[PATH_MAX + 300];

    own_dir(dir, sizeof dir);
    if (argc < 2)
        return help(stderr, dir);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0)
        return help(stdout, dir);
    if (strcmp(argv[1], "--help=bash") == 0)
        return print_bash();
    if (strcmp(argv[1], "--version") == 0) {
        printf("frostline %s\n", FROSTLINE_VERSION);
        return 0;
    }
    if (strlen(argv[1]) > 200 || strchr(argv[1], '/') || argv[1][0] == '-') {
        fprintf(stderr, "frostline: '%.200s' is not a verb; see --help\n", argv[1]);
        return 2;
    }
    snprintf(path, sizeof path, "%s/frostline-%s", dir, argv[1]);
    argv[1] = path;
    execv(path, argv + 1);
    if (errno == ENOENT) {
        char *name = strrchr(path, '/') + 1;
        argv[1] = name;
        execvp(name, argv + 1);
    }
    fprintf(stderr, "frostline: cannot run '%s': %s; see --help\n", argv[1], strerror(errno));
    return 2;
}
