// cuSPARSELt that is there, for tests that never come to a product. FAKE_CUSPARSELT is its version
// before the last dot: "0.8" by default.
#include <cstdio>
#include <cstdlib>

#define NOTHING(name) \
  int name() {        \
    return 0;         \
  }

// NOLINTBEGIN(readability-identifier-naming): the names are NVIDIA's.
extern "C" {
int cusparseLtGetProperty(int which, int* value) {
  const char* version = std::getenv("FAKE_CUSPARSELT");
  int numbers[3] = {0, 8, 1};
  if (version != nullptr) std::sscanf(version, "%d.%d", &numbers[0], &numbers[1]);
  *value = numbers[which];
  return 0;
}
NOTHING(cusparseLtInit)
NOTHING(cusparseLtDenseDescriptorInit)
NOTHING(cusparseLtStructuredDescriptorInit)
NOTHING(cusparseLtMatDescriptorDestroy)
NOTHING(cusparseLtMatmulDescriptorInit)
NOTHING(cusparseLtMatmulAlgSelectionInit)
NOTHING(cusparseLtMatmulAlgSetAttribute)
NOTHING(cusparseLtMatmulAlgGetAttribute)
NOTHING(cusparseLtMatmulPlanInit)
NOTHING(cusparseLtMatmulPlanDestroy)
NOTHING(cusparseLtMatmulGetWorkspace)
NOTHING(cusparseLtSpMMACompressedSize2)
NOTHING(cusparseLtSpMMACompress2)
NOTHING(cusparseLtMatmul)
}
// NOLINTEND(readability-identifier-naming)
