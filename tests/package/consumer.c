/* Uses one function of each installed library that a consumer may link. */
#include <delta/class_id.h>
#include <learner/learn.h>
#include <server/server.h>

#include <stdio.h>
#include <string.h>

int main(void)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_class_id id;
    const struct learner_increment_options options = learner_increment_defaults("frostline");

    if (delta_class_id_make(&id, "Maple Tree", &err) || strcmp(id.text, "maple_tree") != 0)
        return 1;
    printf("%s %s\n", id.text, options.method);
    return strcmp(options.method, "frostline") != 0;
}
