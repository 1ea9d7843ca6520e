// The Python face of csrc: signatures only. Checks shapes and dtypes, releases the GIL, calls.
#include "bind.h"

NB_MODULE(_native, m) {
    m.doc() = "penstock's native executor";
    m.attr("__version__") = PENSTOCK_VERSION;
    penstock::bind_executor(m);
    penstock::bind_plan(m);
    penstock::bind_sampler(m);
    penstock::bind_probe(m);
    penstock::bind_formats(m);
}
