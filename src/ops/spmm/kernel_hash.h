// Which code a plan or a calibration was measured with.
#pragma once

namespace rarefy {

/// Hash of the sources of all formats and of the SpMM kernels of this build that run on the CPU, in
/// hexadecimal; made by kernel_hash.cmake whenever one of them changes.
const char* kernel_source_hash();

/// The same of what runs on GPUs: formats, packers and texts.
const char* device_kernel_source_hash();

}  // namespace rarefy
