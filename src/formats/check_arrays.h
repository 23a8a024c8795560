// Checks that several formats share; each throws `Error` (kCorrupt) that names the array and the
// place.
#pragma once

#include "base/check.h"
#include "formats/panels.h"
#include "rarefy/matrix.h"

namespace rarefy {

/// `array` holds exactly `bytes`.
void check_size(const Matrix& a, const char* array, const Buffer& buffer, std::size_t bytes);

/// `offsets` (count + 1 of them) start at 0 and never fall. Returns the last.
std::int64_t check_offsets(const Matrix& a, const char* array, const Buffer& offsets,
                           std::int64_t count);

/// The values hold exactly `a.nnz()` nonzeros.
void check_nnz(const Matrix& a, const void* values, std::int64_t count);

}  // namespace rarefy
