// The extension module rarefy._core: what the package's Python is written over.
#include "bindings.h"

NB_MODULE(_core, module) {
  module.doc() = "Rarefy's C++ library. Use the names of the package `rarefy` instead.";
  // torch keeps compiled graphs, and the weights in them, until the very end.
  nanobind::set_leak_warnings(false);
  module.attr("__version__") = RAREFY_VERSION;
  rarefy::python::bind_errors();
  rarefy::python::bind_process(module);
  rarefy::python::bind_planner(module);
  rarefy::python::bind_files(module);
  rarefy::python::bind_matrix(module);
  rarefy::python::bind_linear(module);
  rarefy::python::bind_device_linear(module);
  rarefy::python::bind_compress(module);
  rarefy::python::bind_model(module);
  rarefy::python::bind_sampled(module);
  rarefy::python::bind_block_sparse(module);
  rarefy::python::bind_device_blocks(module);
}
