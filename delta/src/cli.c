#include "delta/cli.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "delta/clock.h"

#ifndef FROSTLINE_VERSION
#define FROSTLINE_VERSION "unknown"
#endif

#define MAX_OPTS 64

static void print_value(FILE *out, const struct delta_opt *opt)
{
    switch (opt->kind) {
    case DELTA_OPT_TEXT:
    case DELTA_OPT_CHOICE: {
        const char *text = *(const char **)opt->value;
        if (text)
            fprintf(out, " [%s]", text);
        break;
    }
    case DELTA_OPT_INT:
        fprintf(out, " [%lld]", (long long)*(int64_t *)opt->value);
        break;
    case DELTA_OPT_REAL:
        fprintf(out, " [%g]", *(double *)opt->value);
        break;
    case DELTA_OPT_FLAG:
    case DELTA_OPT_LIST:
        break;
    }
}

static void option_title(char *out, size_t size, const struct delta_opt *opt)
{
    const char *arg = opt->kind == DELTA_OPT_CHOICE ? opt->choices : opt->arg;

    if (opt->kind == DELTA_OPT_FLAG)
        snprintf(out, size, "--%s", opt->name);
    else
        snprintf(out, size, "--%s %s", opt->name, arg ? arg : "VALUE");
}

static void print_help(FILE *out, const struct delta_verb_help *help, const struct delta_opt *opts)
{
    fprintf(out, "usage: %s%s%s [options]%s%s\n\n%s\n", help->program, help->verb ? " " : "",
            help->verb ? help->verb : "", help->operands[0] ? " " : "", help->operands,
            help->summary);
    if (help->details)
        fprintf(out, "\n%s\n", help->details);
    fprintf(out, "\noptions:\n");
    for (const struct delta_opt *opt = opts; opt->name; opt++) {
        char title[96];
        option_title(title, sizeof title, opt);
        fprintf(out, "  %-26s", title);
        if (strlen(title) > 25)
            fprintf(out, "\n  %-26s", "");
        fprintf(out, " %s", opt->help);
        print_value(out, opt);
        if (opt->required)
            fprintf(out, " (required)");
        if (opt->env)
            fprintf(out, " (env %s)", opt->env);
        fprintf(out, "\n");
    }
    fprintf(out, "  %-26s show this help\n", "--help");
}

/* troff text in which a leading dot or a backslash or hyphen cannot be taken for a command. */
static void print_troff(FILE *out, const char *text)
{
    for (const char *p = text; *p; p++) {
        if (*p == '\\')
            fputs("\\e", out);
        else if (*p == '-')
            fputs("\\-", out);
        else if (*p == '\n' && p[1] == '\n') {
            fputs("\n.PP\n", out);
            p++;
        } else if ((*p == '.' || *p == '\'') && (p == text || p[-1] == '\n'))
            fprintf(out, "\\&%c", *p);
        else
            fputc(*p, out);
    }
}

static void print_man(FILE *out, const struct delta_verb_help *help, const struct delta_opt *opts)
{
    const char *verb = help->verb ? help->verb : "";

    fprintf(out, ".TH %s%s%s 1 \"\" \"frostline %s\"\n.SH NAME\n", help->program,
            help->verb ? "-" : "", verb, FROSTLINE_VERSION);
    print_troff(out, help->program);
    fprintf(out, "%s%s \\- ", help->verb ? "\\-" : "", verb);
    print_troff(out, help->summary);
    fprintf(out, "\n.SH SYNOPSIS\n.B ");
    print_troff(out, help->program);
    fprintf(out, " %s\n[options] ", verb);
    print_troff(out, help->operands);
    if (help->details) {
        fprintf(out, "\n.SH DESCRIPTION\n");
        print_troff(out, help->details);
    }
    fprintf(out, "\n.SH OPTIONS\n");
    for (const struct delta_opt *opt = opts; opt->name; opt++) {
        char title[96];
        option_title(title, sizeof title, opt);
        fprintf(out, ".TP\n.B ");
        print_troff(out, title);
        fprintf(out, "\n");
        print_troff(out, opt->help);
        print_value(out, opt);
        if (opt->env)
            fprintf(out, " Environment: %s.", opt->env);
        fprintf(out, "\n");
    }
    fprintf(out, ".SH EXIT STATUS\n0 yes, 1 no, 2 usage, 3 wrong input, 4 not trusted, 5 network, "
                 "6 environment (disk, memory), 7 internal error.\n");
}

/* ---- bash completion: pieces that delta_cli_run() puts together ---- */

static void print_words(FILE *out, const struct delta_opt *opts)
{
    for (const struct delta_opt *opt = opts; opt->name; opt++)
        fprintf(out, "--%s ", opt->name);
    fprintf(out, "--help");
}

/* One `case` branch per option with choices, keyed "VERB:--OPTION". */
static void print_choices(FILE *out, const struct delta_verb_help *help,
                          const struct delta_opt *opts)
{
    for (const struct delta_opt *opt = opts; opt->name; opt++) {
        if (opt->kind != DELTA_OPT_CHOICE || !opt->choices)
            continue;
        fprintf(out, "    %s:--%s) words='", help->verb ? help->verb : "", opt->name);
        for (const char *p = opt->choices; *p; p++)
            fputc(*p == '|' ? ' ' : *p, out);
        fprintf(out, "' only=1 ;;\n");
    }
}

/* A shell function's name has no '-'. */
static void print_function_name(FILE *out, const char *program)
{
    fputc('_', out);
    for (const char *p = program; *p; p++)
        fputc(*p == '-' ? '_' : *p, out);
}

/* Up to the list of words. $1 tells where the verb stands: 2 when `frostline` asks. */
static void print_bash_head(FILE *out, const char *program)
{
    fprintf(out, "# bash completion of %s, made from its option tables\n", program);
    print_function_name(out, program);
    fprintf(out, "()\n{\n"
                 "    local at=${1:-1} words='' only=''\n"
                 "    [[ $at =~ ^[0-9]+$ ]] || at=1\n"
                 "    local cur=${COMP_WORDS[COMP_CWORD]} last=${COMP_WORDS[COMP_CWORD-1]}\n");
}

static void print_bash_tail(FILE *out, const char *program)
{
    fprintf(out, "    COMPREPLY=()\n"
                 "    if [[ $only || $cur == -* ]]; then\n"
                 "        mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n"
                 "    else\n"
                 "        compopt -o filenames 2>/dev/null\n"
                 "        mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n"
                 "    fi\n}\ncomplete -F ");
    print_function_name(out, program);
    fprintf(out, " %s\n", program);
}

/* A program without verbs. */
static void print_bash_alone(FILE *out, const struct delta_verb_help *help,
                             const struct delta_opt *opts)
{
    print_bash_head(out, help->program);
    fprintf(out, "    words='");
    print_words(out, opts);
    fprintf(out, "'\n    case :$last in\n");
    print_choices(out, help, opts);
    fprintf(out, "    esac\n");
    print_bash_tail(out, help->program);
}

static int print_bash(const char *program, const struct delta_verb *verbs)
{
    char words[] = "--help=words", choices[] = "--help=choices", name[64];

    print_bash_head(stdout, program);
    printf("    case ${COMP_WORDS[at]} in\n");
    for (const struct delta_verb *verb = verbs; verb->name; verb++) {
        char *argv[] = {name, words, NULL};
        snprintf(name, sizeof name, "%s", verb->name);
        printf("    %s) words='", name);
        (void)verb->run(2, argv);
        printf("' ;;\n");
    }
    printf("    esac\n    case ${COMP_WORDS[at]}:$last in\n");
    for (const struct delta_verb *verb = verbs; verb->name; verb++) {
        char *argv[] = {name, choices, NULL};
        snprintf(name, sizeof name, "%s", verb->name);
        (void)verb->run(2, argv);
    }
    printf("    esac\n    if ((COMP_CWORD == at)); then\n        only=1 words='");
    for (const struct delta_verb *verb = verbs; verb->name; verb++)
        printf("%s ", verb->name);
    printf("--help --version'\n    fi\n");
    print_bash_tail(stdout, program);
    return 0;
}

/* After help and version: 0, or 6 where standard output is full. */
static int finish_stdout(const char *program)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return 0;
    fprintf(stderr, "%s: cannot write to standard output\n", program);
    return delta_status_exit(DELTA_IO);
}

static void print_any_help(const struct delta_verb_help *help, const struct delta_opt *opts,
                           const char *form)
{
    if (form && strcmp(form, "man") == 0)
        print_man(stdout, help, opts);
    else if (form && strcmp(form, "words") == 0)
        print_words(stdout, opts);
    else if (form && strcmp(form, "choices") == 0)
        print_choices(stdout, help, opts);
    else if (form && strcmp(form, "bash") == 0)
        print_bash_alone(stdout, help, opts);
    else
        print_help(stdout, help, opts);
}

static int usage_error(const struct delta_verb_help *help, const char *fmt, ...) DELTA_PRINTF(2, 3);

static int usage_error(const struct delta_verb_help *help, const char *fmt, ...)
{
    char text[400];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    fprintf(stderr, "%s%s%s: %s; see --help\n", help->program, help->verb ? " " : "",
            help->verb ? help->verb : "", text);
    return 2;
}

static bool is_choice(const char *choices, const char *text)
{
    const size_t len = strlen(text);

    for (const char *p = choices; p && *p;) {
        const char *end = strchr(p, '|');
        const size_t size = end ? (size_t)(end - p) : strlen(p);
        if (size == len && memcmp(p, text, len) == 0)
            return true;
        p = end ? end + 1 : NULL;
    }
    return false;
}

static int set_number(const struct delta_verb_help *help, const struct delta_opt *opt,
                      const char *text)
{
    char *end = NULL;
    double real;
    int64_t whole = 0;

    errno = 0;
    if (opt->kind == DELTA_OPT_INT) {
        whole = strtoll(text, &end, 10);
        real = (double)whole;
    } else {
        real = strtod(text, &end);
    }
    if (errno || end == text || *end)
        return usage_error(help, "--%s: '%s' is not a number", opt->name, text);
    if (!(real >= opt->low && real <= opt->high))
        return usage_error(help, "--%s: %s is not within %g and %g", opt->name, text, opt->low,
                           opt->high);
    if (opt->kind == DELTA_OPT_INT)
        *(int64_t *)opt->value = whole;
    else
        *(double *)opt->value = real;
    return -1;
}

static int set_option(const struct delta_verb_help *help, const struct delta_opt *opt,
                      const char *text)
{
    switch (opt->kind) {
    case DELTA_OPT_FLAG:
        *(bool *)opt->value = true;
        return -1;
    case DELTA_OPT_CHOICE:
        if (!is_choice(opt->choices, text))
            return usage_error(help, "--%s: '%s' is not one of %s", opt->name, text, opt->choices);
        *(const char **)opt->value = text;
        return -1;
    case DELTA_OPT_TEXT:
        *(const char **)opt->value = text;
        return -1;
    case DELTA_OPT_LIST: {
        struct delta_opt_list *list = opt->value;
        if (list->count == DELTA_OPT_LIST_MAX)
            return usage_error(help, "--%s: given more than %d times", opt->name,
                               DELTA_OPT_LIST_MAX);
        list->items[list->count++] = text;
        return -1;
    }
    case DELTA_OPT_INT:
    case DELTA_OPT_REAL:
        return set_number(help, opt, text);
    }
    return 7;
}

static int apply_fallbacks(const struct delta_verb_help *help, const struct delta_opt *opts,
                           const bool *seen)
{
    for (size_t i = 0; opts[i].name; i++) {
        const char *text = opts[i].env && !seen[i] ? getenv(opts[i].env) : NULL;
        if (text && *text) {
            const int rc = set_option(help, &opts[i], text);
            if (rc >= 0)
                return rc;
        } else if (opts[i].required && !seen[i]) {
            return usage_error(help, "--%s is required", opts[i].name);
        }
    }
    return -1;
}

int delta_opt_parse(const struct delta_verb_help *help, struct delta_opt *opts, int argc,
                    char **argv, int *first)
{
    struct option table[MAX_OPTS + 2] = {{0}};
    bool seen[MAX_OPTS] = {false};
    size_t count = 0;
    int rc;

    for (; opts[count].name && count < MAX_OPTS; count++)
        table[count] = (struct option){
            opts[count].name, opts[count].kind == DELTA_OPT_FLAG ? no_argument : required_argument,
            NULL, 0};
    table[count] = (struct option){"help", optional_argument, NULL, 0};
    optind = 0; /* glibc: start afresh, operands may stand between options */
    opterr = 0;
    for (;;) {
        int index = -1;
        const int got = getopt_long(argc, argv, ":", table, &index);
        if (got == -1)
            break;
        if (got == ':')
            return usage_error(help, "'%s': its value is missing", argv[optind - 1]);
        if (got == '?')
            return usage_error(help, "'%s': unknown or ambiguous option", argv[optind - 1]);
        if ((size_t)index == count) {
            print_any_help(help, opts, optarg);
            return finish_stdout(help->program);
        }
        seen[index] = true;
        rc = set_option(help, &opts[index], optarg);
        if (rc >= 0)
            return rc;
    }
    const int operands = argc - optind;
    if (operands < help->min_operands)
        return usage_error(help, "%s expected", help->operands);
    if (help->max_operands >= 0 && operands > help->max_operands)
        return usage_error(help, "'%s': unexpected operand", argv[optind + help->max_operands]);
    rc = apply_fallbacks(help, opts, seen);
    if (rc >= 0)
        return rc;
    *first = optind;
    return -1;
}

int delta_cli_run(const char *program, const char *summary, const struct delta_verb *verbs,
                  int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : "--help";

    if (strcmp(word, "--version") == 0) {
        printf("%s %s\n", program, FROSTLINE_VERSION);
        return finish_stdout(program);
    }
    if (strcmp(word, "--help=bash") == 0)
        return print_bash(program, verbs);
    for (const struct delta_verb *verb = verbs; verb->name; verb++)
        if (strcmp(verb->name, word) == 0)
            return verb->run(argc - 1, argv + 1);
    const bool wanted = strcmp(word, "--help") == 0 || strcmp(word, "help") == 0;
    FILE *out = wanted ? stdout : stderr;
    if (!wanted)
        fprintf(out, "%s: '%s' is not a verb of this program\n", program, word);
    fprintf(out, "usage: %s VERB [options]\n\n%s\n\nverbs:\n", program, summary);
    for (const struct delta_verb *verb = verbs; verb->name; verb++)
        fprintf(out, "  %-12s %s\n", verb->name, verb->summary);
    fprintf(out,
            "\n'%s VERB --help' tells more. --version shows the version.\n"
            "Exit status: 0 yes, 1 no, 2 usage, 3 wrong input, 4 not trusted, 5 network,\n"
            "6 environment (disk, memory, permission), 7 internal error.\n",
            program);
    return wanted && argc > 1 ? finish_stdout(program) : 2;
}

int delta_cli_fail(const struct delta_verb_help *help, const struct delta_error *err)
{
    fprintf(stderr, "%s%s%s: %s\n", help->program, help->verb ? " " : "",
            help->verb ? help->verb : "",
            err->text[0] ? err->text : delta_status_text(err->status));
    return delta_status_exit(err->status ? err->status : DELTA_INTERNAL);
}

#define PROGRESS_AFTER_MS 2000
#define PROGRESS_TTY_MS 200
#define PROGRESS_LOG_MS 10000

static int64_t progress_now(void)
{
    const struct delta_clock clock = delta_clock_system();

    return delta_clock_monotonic_ms(&clock);
}

void delta_progress_start(struct delta_progress *progress, const char *label, bool quiet)
{
    *progress =
        (struct delta_progress){.label = label, .started_ms = progress_now(), .quiet = quiet};
    progress->shown_ms = progress->started_ms;
}

void delta_progress_at(struct delta_progress *progress, double done, double total)
{
    const int64_t now = progress_now();
    const double spent = (double)(now - progress->started_ms) / 1000.0;
    const bool tty = isatty(STDERR_FILENO);
    const int64_t pause = tty ? PROGRESS_TTY_MS : PROGRESS_LOG_MS;

    if (progress->quiet || now - progress->started_ms < PROGRESS_AFTER_MS ||
        now - progress->shown_ms < pause || !(total > 0))
        return;
    progress->shown_ms = now;
    progress->drawn = tty;
    const double left = done > 0 ? spent * (total - done) / done : 0;
    fprintf(stderr, "%s%s: %3.0f%%, %.0f s, %.0f s left%s", tty ? "\r\033[K" : "", progress->label,
            100.0 * done / total, spent, left, tty ? "" : "\n");
}

void delta_progress_end(struct delta_progress *progress)
{
    if (progress->drawn)
        fprintf(stderr, "\r\033[K");
    progress->drawn = false;
}

const char *delta_human_bytes(char out[16], double bytes)
{
    static const char *const units[] = {"B", "KB", "MB", "GB", "TB"};
    size_t unit = 0;

    while (bytes >= 999.5 && unit + 1 < sizeof units / sizeof units[0]) {
        bytes /= 1000;
        unit++;
    }
    snprintf(out, 16, unit ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
    return out;
}
