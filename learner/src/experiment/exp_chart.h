/* Charts of numbers: lines with markers and error bars over a linear or logarithmic axis, and
 * horizontal bars in groups. Title, axes with round ticks, grid, legend; colours that the
 * colour-blind can tell apart (Okabe and Ito), and a marker of its own for each series.
 * Private to the folder. */
#ifndef EXP_CHART_H
#define EXP_CHART_H

#include "draw.h"

struct exp_chart_point {
    double x, y, deviation;
};

struct exp_chart_series {
    const char *name; /* borrowed */
    struct exp_chart_point *points;
    size_t count;
    bool joined; /* by a line; otherwise markers alone */
    bool grey;   /* a control: grey and dashed */
};

struct exp_chart {
    const char *title, *subtitle, *x_title, *y_title, *note;
    bool log_x, log_y;
    bool percent; /* the axis of values stays within 0 and 100 */
    bool whole_x; /* x counts things: no ticks between whole numbers */
    struct exp_chart_series *series;
    size_t series_count;
    /* Bars: point i of a series belongs to group i. Otherwise NULL. */
    const char *const *groups;
    size_t group_count;
};

/* Draws and writes <stem>.svg and .png.  fails: as draw_save; LIMIT */
DELTA_MUST_USE enum delta_status exp_chart_save(const struct exp_chart *chart, const char *stem,
                                                struct delta_error *err);

#endif
