// cuBLASLt that is there, for tests that never come to a product.
#define NOTHING(name) \
  int name() {        \
    return 0;         \
  }

// NOLINTBEGIN(readability-identifier-naming): the names are NVIDIA's.
extern "C" {
NOTHING(cublasLtCreate)
NOTHING(cublasLtDestroy)
NOTHING(cublasLtMatmulDescCreate)
NOTHING(cublasLtMatmulDescDestroy)
NOTHING(cublasLtMatmulDescSetAttribute)
NOTHING(cublasLtMatrixLayoutCreate)
NOTHING(cublasLtMatrixLayoutDestroy)
NOTHING(cublasLtMatmulPreferenceCreate)
NOTHING(cublasLtMatmulPreferenceDestroy)
NOTHING(cublasLtMatmulPreferenceSetAttribute)
NOTHING(cublasLtMatmulAlgoGetHeuristic)
NOTHING(cublasLtMatmul)
}
// NOLINTEND(readability-identifier-naming)
