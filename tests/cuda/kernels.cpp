// The launchers of csrc/cuda by name, for tests: one line NP_BIND("name", launcher) each.

#include "bindings.h"
