/* Plans: what they spread into, and the exact complaint about each that is wrong. */
#include "harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delta/file.h"
#include "experiment/exp_plan.h"

static struct harness_scratch scratch;
static struct delta_error err;

static int set_up(void **state)
{
    (void)state;
    harness_scratch_make(&scratch);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    harness_scratch_remove(&scratch);
    return 0;
}

#define HEAD "{\"schema\": 1, \"name\": \"t\", \"data\": \"synthetic:classes=6,train=4,test=2\",\n"
#define BASES                                                                                      \
    "\"bases\": [{\"name\": \"b\", \"pretrain\": {\"arch\": \"resnet18\", \"width\": 4}}],\n"
#define PROTOCOLS "\"protocols\": [{\"name\": \"P1\", \"base\": 4, \"classes\": 1}],\n"
#define METHODS "\"methods\": [{\"method\": \"finetune\"}]}\n"

static enum delta_status load(struct learner_experiment **plan, const char *text,
                              const struct learner_experiment_choice *choice)
{
    const char *path = harness_path(&scratch, "plan.json");

    *plan = NULL;
    err = (struct delta_error)DELTA_ERROR_INIT;
    assert_ok(delta_file_write(path, delta_bytes(text, strlen(text)), 0644, &err));
    return learner_experiment_load(plan, path, choice, &err);
}

static void plan_spreads_into_every_combination(void **state)
{
    struct learner_experiment *plan;
    (void)state;

    assert_ok(
        load(&plan,
             HEAD BASES
             "\"protocols\": [{\"name\": \"P1\", \"base\": 4, \"classes\": [1, 2]}, {\"name\": "
             "\"P2\", \"base\": 2, \"classes\": 2, \"steps\": 2}],\n"
             "\"seeds\": [1, 2], \"orders\": [\"source\", \"pycil:7\"],\n"
             "\"budgets\": [{\"name\": \"quick\", \"time_s\": 1}, {\"name\": \"slow\"}],\n"
             "\"methods\": [{\"method\": \"freeze\", \"ratio\": [0.5, 0.9], \"lr\": 0.1}]}\n",
             NULL));
    /* groups: 2 of one class, 1 of two, 1 of P2; rows: 2 and do-nothing */
    assert_int_equal(learner_experiment_run_count(plan), (2 + 1 + 1) * 2 * 2 * 2 * 3);
    for (size_t i = 0; i < learner_experiment_run_count(plan); i++)
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(learner_experiment_run_key(plan, i),
                                    learner_experiment_run_key(plan, j));
    assert_string_equal(plan->variants[0].label, "freeze ratio=0.5 lr=0.1");
    assert_string_equal(plan->variants[2].label, "do-nothing");
    assert_true(exp_variant_options(plan, &plan->variants[1]).ratio == 0.9);
    assert_true(exp_variant_options(plan, &plan->variants[1]).max_old_drop == 1);
    learner_experiment_free(plan);
}

static void keys_change_with_what_decides_and_with_nothing_else(void **state)
{
    static const char *const same[] = {
        "\"title\": \"other\", \"workers\": 3, \"pictures\": [\"bars\"],\n"};
    static const char *const other[] = {"\"exemplars\": 7,\n", "\"probes\": 1,\n",
                                        "\"per_class\": 3,\n", "\"guard\": true,\n",
                                        "\"threads\": 2,\n",   "\"orders\": \"seed:1\",\n",
                                        "\"pool\": 2,\n"};
    struct learner_experiment *plan;
    char key[EXP_KEY_MAX], text[2000];
    (void)state;

    assert_ok(load(&plan, HEAD BASES PROTOCOLS METHODS, NULL));
    snprintf(key, sizeof key, "%s", learner_experiment_run_key(plan, 0));
    learner_experiment_free(plan);
    snprintf(text, sizeof text, "%s%s", HEAD, same[0]);
    snprintf(text + strlen(text), sizeof text - strlen(text), BASES PROTOCOLS METHODS);
    assert_ok(load(&plan, text, NULL));
    assert_string_equal(learner_experiment_run_key(plan, 0), key);
    learner_experiment_free(plan);
    for (size_t i = 0; i < sizeof other / sizeof other[0]; i++) {
        snprintf(text, sizeof text, "%s%s%s", HEAD, other[i], BASES PROTOCOLS METHODS);
        assert_ok(load(&plan, text, NULL));
        assert_string_not_equal(learner_experiment_run_key(plan, 0), key);
        learner_experiment_free(plan);
    }
}

static void small_replaces_keys(void **state)
{
    const struct learner_experiment_choice choice = {.small = true};
    struct learner_experiment *plan;
    static const char text[] = HEAD "\"small\": {\"seeds\": [1, 2, 3]},\n" BASES PROTOCOLS METHODS;
    (void)state;

    assert_ok(load(&plan, text, NULL));
    assert_int_equal(learner_experiment_run_count(plan), 2 * 2);
    learner_experiment_free(plan);
    assert_ok(load(&plan, text, &choice));
    assert_int_equal(learner_experiment_run_count(plan), 3 * 2 * 2);
    learner_experiment_free(plan);
}

static const struct {
    const char *text, *complaint;
} bad[] = {
    {"{\n\"schema\": 1,\n\"name\": }", "line 3: "},
    {"[1]", "an object is wanted"},
    {"{\"schema\": 2}", "line 1, schema: 2 is not within 1 and 1"},
    {HEAD "\"nonsense\": 1,\n" BASES PROTOCOLS METHODS,
     "line 2, nonsense: unknown key; there are schema, name, title"},
    {HEAD BASES PROTOCOLS "\"seeds\": 1}", "key 'methods' is missing"},
    {HEAD "\"seeds\": [1, \"x\"],\n" BASES PROTOCOLS METHODS,
     "line 2, seeds[1]: a whole number is wanted"},
    {HEAD "\"seeds\": 1.5,\n" BASES PROTOCOLS METHODS, "seeds: a whole number is wanted"},
    {HEAD "\"seeds\": [],\n" BASES PROTOCOLS METHODS, "seeds: a list of 1 to 64 values is wanted"},
    {HEAD "\"seeds\": 1, \"seeds\": 2,\n" BASES PROTOCOLS METHODS, "line 2: duplicate object key"},
    {HEAD "\"exemplars\": -1,\n" BASES PROTOCOLS METHODS,
     "exemplars: -1 is not within 0 and 10000"},
    {HEAD "\"orders\": \"backwards\",\n" BASES PROTOCOLS METHODS,
     "order 'backwards' is none of source, pycil:SEED, seed:N, or a file of labels"},
    {HEAD "\"pictures\": [\"steps\", \"cake\"],\n" BASES PROTOCOLS METHODS,
     "line 2, pictures[1]: picture 'cake' is unknown; there are steps, seconds"},
    {HEAD "\"reference\": \"joint\",\n" BASES PROTOCOLS METHODS,
     "line 2, reference: there is no row 'joint'"},
    {HEAD "\"small\": {\"seed\": 1},\n" BASES PROTOCOLS METHODS, "line 2, small.seed: unknown key"},
    {HEAD "\"small\": {\"schema\": 1},\n" BASES PROTOCOLS METHODS,
     "small.schema: this key cannot be made small"},
    {HEAD "\"bases\": [{\"name\": \"b\"}],\n" PROTOCOLS METHODS,
     "line 2, bases[0]: either 'model' or 'pretrain' is wanted"},
    {HEAD "\"bases\": [{\"name\": \"b c\", \"model\": \"x\"}],\n" PROTOCOLS METHODS,
     "name 'b c' is not letters, digits, - and _"},
    {HEAD "\"bases\": [{\"name\": \"b\", \"model\": \"none.flm\"}],\n" PROTOCOLS METHODS,
     "none.flm': No such file or directory"},
    {HEAD
     "\"bases\": [\n{\"name\": \"b\",\n\"pretrain\": {\"arch\": \"vgg\"}}],\n" PROTOCOLS METHODS,
     "line 4, bases[0].pretrain.arch: "},
    {HEAD "\"bases\": [\n{\"name\": \"b\",\n\"pretrain\": {\"arch\": \"resnet18\", \"lr\": "
          "11}}],\n" PROTOCOLS METHODS,
     "line 4, bases[0].pretrain.lr: 11 is not within 0 and 10"},
    {HEAD BASES "\"protocols\": [{\"name\": \"P1\", \"base\": 4, \"classes\": 3}],\n" METHODS,
     "protocol P1: 4 + 1 x 3 classes are wanted, the data has 6"},
    {HEAD BASES PROTOCOLS "\"methods\": [{\"method\": \"freeze\"},\n{\"method\": \"magic\"}]}",
     "line 5, methods[1].method: method 'magic' is unknown; there are frostline"},
    {HEAD BASES PROTOCOLS "\"methods\": [{\"method\": \"freeze\",\n\"ratio\": [0.5, 1.5]}]}",
     "line 5, methods[0].ratio[1]: 1.5 is not within 0 and 1"},
    {HEAD BASES PROTOCOLS "\"methods\": [{\"method\": \"freeze\", \"ratoi\": 0.5}]}",
     "methods[0].ratoi: unknown key; there are method, label, stages, mask"},
    {HEAD BASES PROTOCOLS "\"methods\": [{\"method\": \"freeze\"}, {\"method\": \"freeze\"}]}",
     "methods[1]: two rows would be called 'freeze'; give one a \"label\""},
    {HEAD BASES PROTOCOLS "\"methods\": [{\"method\": \"freeze\", \"mask\": \"luck\"}]}",
     "methods[0].mask: 'luck' is not one of importance|magnitude|random"},
    {HEAD BASES PROTOCOLS "\"methods\": [{\"method\": \"freeze\", \"mirror\": 1}]}",
     "methods[0].mirror: true or false is wanted"},
    {HEAD BASES PROTOCOLS "\"methods\": [{\"method\": \"freeze\", \"exemplars\": \"many\"}]}",
     "methods[0].exemplars: a number from 0 to 10000 or \"all\" is wanted"},
};

static void bad_plans_are_refused_with_their_place(void **state)
{
    struct learner_experiment *plan;
    (void)state;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const enum delta_status st = load(&plan, bad[i].text, NULL);
        if (!st || !strstr(err.text, bad[i].complaint) || !strstr(err.text, scratch.path))
            if (!st || !strstr(err.text, bad[i].complaint))
                fail_msg("row %zu: status %d, '%s' instead of '%s'", i, st, err.text,
                         bad[i].complaint);
    }
    assert_status(load(&plan, HEAD BASES PROTOCOLS "\"methods\": [{\"method\": \"magic\"}]}", NULL),
                  DELTA_UNSUPPORTED);
    assert_status(load(&plan, HEAD BASES PROTOCOLS METHODS,
                       &(struct learner_experiment_choice){.small = true}),
                  DELTA_FORMAT);
    assert_non_null(strstr(err.text, "--small, but there is no key 'small'"));
    const char *bases[] = {"c=x.flm"};
    assert_status(load(&plan, HEAD BASES PROTOCOLS METHODS,
                       &(struct learner_experiment_choice){.bases = bases, .base_count = 1}),
                  DELTA_USAGE);
}

/* The order that class-incremental papers call seed 1993 begins like this. */
static void pycil_orders_are_numpys(void **state)
{
    static const uint32_t begin[] = {68, 56, 78, 8, 23, 84, 90, 65, 74, 76};
    uint32_t order[100], other[100];
    bool seen[100] = {false};
    const char *file = harness_shared("data/cifar-100-order-1993.txt");
    (void)state;

    assert_ok(exp_order_make(order, 100, "pycil:1993", ".", &err));
    for (size_t i = 0; i < 10; i++)
        assert_int_equal(order[i], begin[i]);
    for (size_t i = 0; i < 100; i++)
        seen[order[i]] = true;
    for (size_t i = 0; i < 100; i++)
        assert_true(seen[i]);
    assert_ok(exp_order_make(other, 100, "seed:1993", ".", &err));
    assert_memory_not_equal(order, other, sizeof order);
    if (!file)
        skip();
    assert_ok(exp_order_make(other, 100, file, "/", &err));
    assert_memory_equal(order, other, sizeof order);
}

/* What every plan that ships is good for: it can be read, small. */
static void shipped_plans_are_sound(void **state)
{
    const struct learner_experiment_choice choice = {.small = true};
    struct delta_dir_list list;
    char dir[600], path[700];
    size_t plans = 0;
    (void)state;

    snprintf(dir, sizeof dir, "%s/learner/experiments", getenv("FROSTLINE_SOURCE"));
    const char *data = harness_shared("data");
    assert_ok(delta_dir_read(&list, dir, 100, &err));
    for (size_t i = 0; i < list.count; i++) {
        struct learner_experiment *plan = NULL;
        if (!strstr(list.names[i], ".json"))
            continue;
        snprintf(path, sizeof path, "%s/%s", dir, list.names[i]);
        assert_ok(learner_experiment_load(&plan, path, &choice, &err));
        assert_true(learner_experiment_run_count(plan) >= 2);
        plans++;
        learner_experiment_free(plan);
        if (data) { /* in full, where there are a hundred classes */
            assert_ok(learner_experiment_load(
                &plan, path, &(struct learner_experiment_choice){.data = data}, &err));
            assert_true(learner_experiment_run_count(plan) >= 14);
            learner_experiment_free(plan);
        }
    }
    delta_dir_list_release(&list);
    assert_int_equal(plans, 9);
}

static void only_some_runs_are_wanted(void **state)
{
    static const char *const nothings[] = {"*/do-nothing/*"}, *const two[] = {"*/ncm/*",
                                                                              "*/finetune/*"};
    static const char *const nobody[] = {"*/nobody/*"};
    struct learner_experiment *plan = NULL;
    char path[700];
    (void)state;

    snprintf(path, sizeof path, "%s/learner/experiments/ten-classes.json",
             getenv("FROSTLINE_SOURCE"));
    const struct learner_experiment_choice one = {.small = true, .only = nothings, .only_count = 1};
    assert_ok(learner_experiment_load(&plan, path, &one, &err));
    assert_int_equal(learner_experiment_run_count(plan), 1);
    assert_non_null(strstr(learner_experiment_run_key(plan, 0), "/do-nothing/"));
    learner_experiment_free(plan);
    const struct learner_experiment_choice both = {.small = true, .only = two, .only_count = 2};
    assert_ok(learner_experiment_load(&plan, path, &both, &err));
    assert_int_equal(learner_experiment_run_count(plan), 2);
    learner_experiment_free(plan);
    const struct learner_experiment_choice none = {.small = true, .only = nobody, .only_count = 1};
    assert_status(learner_experiment_load(&plan, path, &none, &err), DELTA_NOT_FOUND);
    assert_non_null(strstr(err.text, "*/nobody/*"));
}

static void schema_names_every_key(void **state)
{
    static const char *const words[] = {"protocols        required; ",
                                        "herded; default 20",
                                        "  ratio  ",
                                        "pycil:SEED",
                                        "  epochs_tune ",
                                        "  time_s "};
    struct delta_buf text;
    (void)state;

    assert_ok(learner_experiment_schema(&text, &err));
    assert_ok(delta_buf_append(&text, "", 1, &err));
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (!strstr((const char *)text.data, words[i]))
            fail_msg("the schema does not say '%s'", words[i]);
    delta_buf_release(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plan_spreads_into_every_combination),
        cmocka_unit_test(keys_change_with_what_decides_and_with_nothing_else),
        cmocka_unit_test(small_replaces_keys),
        cmocka_unit_test(bad_plans_are_refused_with_their_place),
        cmocka_unit_test(pycil_orders_are_numpys),
        cmocka_unit_test(shipped_plans_are_sound),
        cmocka_unit_test(only_some_runs_are_wanted),
        cmocka_unit_test(schema_names_every_key),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
