#include <stdio.h>
#include <string.h>

#include "learner/net.h"
#include "learner/networks.h"
#include "learner_verbs.h"

static const struct delta_verb_help help = {
    .program = LEARNER_PROGRAM,
    .verb = "networks",
    .operands = "",
    .summary = "Lists the networks that can be trained, and what they cost.",
    .details =
        "A row for each stem that a network has: 'cifar' keeps small images large, 'imagenet' "
        "halves them early. The width is the number of channels of the first stage, or percent of "
        "the published channels (mobilenet_v2; 100 = x1.0, rounded to multiples of 8 as "
        "torchvision does).\n\n"
        "Parameters are those that learn. Multiply-adds are those of convolutions and classifier, "
        "for one image. Memory is what the network itself takes with --batch images at once: "
        "parameters, their gradients in training, activations, working space.",
};

struct networks {
    struct learner_common common;
    const char *arch;
    int64_t width, size, classes, batch;
};

struct row {
    struct learner_network_info info;
    struct delta_arch arch;
    struct learner_network_cost cost;
    size_t infer_bytes, train_bytes;
};

static enum delta_status memory_of(size_t *bytes, const struct delta_model *model,
                                   const struct networks *n, bool train, struct delta_error *err)
{
    const struct learner_net_options options = {.device = n->common.device,
                                                .batch = (size_t)n->batch,
                                                .threads = (int)n->common.threads,
                                                .train = train};
    struct learner_net *net = NULL;
    const enum delta_status st = learner_net_new(&net, model, &options, err);

    if (!st)
        *bytes = learner_net_memory_bytes(net);
    learner_net_free(net);
    return st;
}

static enum delta_status measure(struct row *row, const struct networks *n, struct delta_error *err)
{
    const size_t classes = (size_t)n->classes;
    struct delta_class_id *ids = delta_calloc(classes, sizeof *ids);
    struct delta_model model = DELTA_MODEL_INIT;
    enum delta_status st;

    if (!ids)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for %zu classes", classes);
    for (size_t i = 0; i < classes; i++)
        snprintf(ids[i].text, sizeof ids[i].text, "class-%zu", i);
    st = learner_network_cost(&row->cost, &row->arch, classes, err);
    if (!st)
        st = learner_net_init_model(&model, &row->arch, ids, classes, 1, err);
    if (!st)
        st = memory_of(&row->infer_bytes, &model, n, false, err);
    if (!st)
        st = memory_of(&row->train_bytes, &model, n, true, err);
    delta_model_release(&model);
    free(ids);
    return st;
}

static void print_row(const struct row *row)
{
    char width[16], input[24];

    snprintf(width, sizeof width, "%u%s", row->arch.width, row->info.percent ? " %" : "");
    snprintf(input, sizeof input, "%ux%u", row->arch.image_width, row->arch.height);
    printf("%-13s %-9s %6s %8s %11zu %9.1f %9.1f %9.1f\n", row->info.name, row->arch.stem, width,
           input, row->cost.parameters, row->cost.macs * 1e-6, (double)row->infer_bytes / 1048576,
           (double)row->train_bytes / 1048576);
}

static json_t *row_json(const struct row *row)
{
    return json_pack(
        "{s:s, s:s, s:s, s:I, s:s, s:[I, I, I], s:I, s:I, s:f, s:I, s:I}", "name", row->info.name,
        "text", row->info.text, "stem", row->arch.stem, "width", (json_int_t)row->arch.width,
        "width_unit", row->info.percent ? "percent" : "channels", "input",
        (json_int_t)row->arch.channels, (json_int_t)row->arch.height,
        (json_int_t)row->arch.image_width, "parameters", (json_int_t)row->cost.parameters,
        "statistics", (json_int_t)row->cost.statistics, "macs", row->cost.macs, "infer_bytes",
        (json_int_t)row->infer_bytes, "train_bytes", (json_int_t)row->train_bytes);
}

static enum delta_status list(const struct networks *n, json_t *json, struct delta_error *err)
{
    struct row row = {.infer_bytes = 0};
    enum delta_status st = DELTA_OK;

    if (!n->common.json)
        printf("%-13s %-9s %6s %8s %11s %9s %9s %9s\n", "network", "stem", "width", "input",
               "parameters", "M mul-add", "infer MiB", "train MiB");
    for (size_t i = 0; !st && learner_network_info(&row.info, i); i++) {
        if (n->arch && strcmp(n->arch, row.info.name) != 0)
            continue;
        for (size_t s = 0; !st && row.info.stems[s]; s++) {
            const uint32_t side = n->size                                   ? (uint32_t)n->size
                                  : strcmp(row.info.stems[s], "cifar") == 0 ? 32
                                                                            : 224;
            st = learner_network_arch(&row.arch, row.info.name, row.info.stems[s],
                                      (uint32_t)n->width, 3, side, side, err);
            if (!st)
                st = measure(&row, n, err);
            if (!st && n->common.json)
                json_array_append_new(json, row_json(&row));
            else if (!st)
                print_row(&row);
        }
    }
    return st;
}

int learner_cmd_networks(int argc, char **argv)
{
    struct networks n = {.common = LEARNER_COMMON_INIT, .classes = 100, .batch = 1};
    struct delta_opt opts[] = {
        {"arch", DELTA_OPT_CHOICE, &n.arch, .choices = LEARNER_NETWORK_NAMES,
         .help = "only this network"},
        {"width", DELTA_OPT_INT, &n.width, .arg = "N",
         .help = "as in pretrain; 0: each one's default", .low = 0, .high = 1024},
        {"size", DELTA_OPT_INT, &n.size, .arg = "PIXELS",
         .help = "side of the images; 0: 32 or 224, by the stem", .low = 0, .high = 4096},
        {"classes", DELTA_OPT_INT, &n.classes, .arg = "N", .help = "outputs", .low = 1,
         .high = 65535},
        {"batch", DELTA_OPT_INT, &n.batch, .arg = "N", .help = "images at once, for the memory",
         .low = 1, .high = 1024},
        LEARNER_OPT_DEVICE(n.common),
        LEARNER_OPT_JSON(n.common),
        {0}};
    struct delta_error err = DELTA_ERROR_INIT;
    int first, rc = delta_opt_parse(&help, opts, argc, argv, &first);

    if (rc >= 0)
        return rc;
    json_t *json = json_array();
    const enum delta_status st = list(&n, json, &err);
    if (!st && n.common.json)
        learner_print_json(json_pack("{s:O}", "networks", json));
    json_decref(json);
    return st ? delta_cli_fail(&help, &err) : 0;
}
