// What concerns the whole process: threads, and what this CPU can do.
#include <dlfcn.h>
#include <nanobind/stl/string.h>

#include "base/borrowed_threads.h"
#include "bindings.h"
#include "rarefy/cpu.h"
#include "rarefy/threads.h"

namespace nb = nanobind;

namespace rarefy::python {
namespace {

/// Jobs go to the OpenMP threads that `library` runs on, which is loaded; false where it has none
/// of GNU's.
bool borrow_threads_of(const std::string& library) {
  void* handle = dlopen(library.c_str(), RTLD_LAZY | RTLD_NOLOAD);
  if (handle == nullptr) return false;
  // Looked up in what the library was linked to: the process may have another OpenMP.
  void* runner = dlsym(handle, "GOMP_parallel");
  if (runner == nullptr) {
    dlclose(handle);
    return false;
  }
  borrow_threads(reinterpret_cast<ParallelRunner>(runner));
  return true;  // And keeps the library.
}

}  // namespace

void bind_process(nb::module_& module) {
  module.def(
      "threads", [] { return default_pool().size(); },
      "How many threads an operator runs on: RAREFY_THREADS, or all CPUs that this process may "
      "use.");
  module.def(
      "set_threads", [](int threads) { set_default_threads(threads); }, nb::arg("threads"),
      "Makes operators run on so many threads from now on; 0 is the number at the start.");
  module.def("_borrow_threads_of", &borrow_threads_of, nb::arg("library"),
             "Runs jobs on the OpenMP threads of a library that is loaded; whether it has any.");
  module.def(
      "_own_threads", [] { borrow_threads(nullptr); }, "Runs jobs on threads of its own again.");

  nb::class_<CpuInfo>(module, "CpuInfo", "What a CPU can do; see `cpu_info`.")
      .def_ro("brand", &CpuInfo::brand, "As the CPU calls itself.")
      .def_ro("avx2", &CpuInfo::avx2, "AVX2, FMA and F16C.")
      .def_ro("avx512", &CpuInfo::avx512, "AVX-512 with VBMI2 and BF16.")
      .def_ro("amx", &CpuInfo::amx, "AMX tiles of bf16, granted by the kernel.")
      .def_ro("cores", &CpuInfo::cores, "CPUs that this process may run on.")
      .def_ro("l1d_bytes", &CpuInfo::l1d_bytes)
      .def_ro("l2_bytes", &CpuInfo::l2_bytes)
      .def_ro("l3_bytes", &CpuInfo::l3_bytes)
      .def("__repr__", [](const CpuInfo& cpu) {
        return std::string("CpuInfo(") + cpu.brand + ", " + std::to_string(cpu.cores) + " cores, " +
               to_string(active_isa()) + ")";
      });
  module.def(
      "cpu_info", [] { return cpu_info(); }, "What this CPU can do, detected once.");
  module.def(
      "instruction_set", [] { return std::string(to_string(active_isa())); },
      "The instruction set that kernels use: portable, avx2, avx512 or amx. RAREFY_ISA lowers it.");
}

}  // namespace rarefy::python
