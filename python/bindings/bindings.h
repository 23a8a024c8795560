// One function an area, called when the module is made.
#pragma once

#include <nanobind/nanobind.h>

namespace rarefy::python {

void bind_errors();
void bind_process(nanobind::module_& module);
void bind_planner(nanobind::module_& module);
void bind_files(nanobind::module_& module);
void bind_matrix(nanobind::module_& module);
void bind_linear(nanobind::module_& module);
void bind_device_linear(nanobind::module_& module);
void bind_compress(nanobind::module_& module);
void bind_model(nanobind::module_& module);
void bind_sampled(nanobind::module_& module);
void bind_block_sparse(nanobind::module_& module);
void bind_device_blocks(nanobind::module_& module);

}  // namespace rarefy::python
