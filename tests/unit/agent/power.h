/* A power cut at a chosen moment: every call that changes the disk is counted (the linker's --wrap
 * leads them here), and the process ends before the Nth, a write half done. */
#ifndef POWER_H
#define POWER_H

#define POWER_CUT 99 /* exit status of a process that met its cut */

/* Counts from here on; -1 = no cut. */
void power_cut_before(long operation);
/* Counts from here on; every write from that operation on finds no space. */
void power_disk_full_from(long operation);
/* Scratch directories in memory, where there is such a place: cuts are simulated, and thousands
 * of real fsyncs would only take time. */
void power_fast_disk(void);

#endif
