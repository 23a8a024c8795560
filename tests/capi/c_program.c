#include "capi/c_program.h"

#include <stdlib.h>
#include <string.h>

#include "rarefy/c.h"

#define STRING(x) #x
#define LINE(x) STRING(x)
#define CHECK(condition)                                                    \
  do {                                                                      \
    if (!(condition)) return "c_program.c:" LINE(__LINE__) ": " #condition; \
  } while (0)

static const char* multiply(void) {
  /* Row 1 is empty; rows lie 5 elements apart. */
  const float weight[15] = {1, 0, 0, 2, 99, 0, 0, -0.0F, 0, 99, 0, -3, 0, 4, 99};
  const float b[8] = {1, 2, 3, 4, -1, -2, -3, -4};
  const float bias[3] = {0.5F, -1, 0};
  float c[6] = {7, 7, 7, 7, 7, 7};
  rarefy_matrix* matrix = NULL;
  CHECK(rarefy_matrix_pack(weight, RAREFY_F32, 3, 4, 5, "csr", &matrix) == RAREFY_OK);

  rarefy_matrix_description info = {sizeof info};
  CHECK(rarefy_matrix_info(matrix, &info) == RAREFY_OK);
  CHECK(strcmp(info.format, "csr") == 0);
  CHECK(info.dtype == RAREFY_F32 && info.rows == 3 && info.cols == 4 && info.nnz == 4);
  CHECK(info.bytes > 0);

  rarefy_spmm_args args = {sizeof args};
  args.n = 2;
  args.b = b;
  args.c = c;
  args.bias = bias;
  args.activation = RAREFY_ACTIVATION_RELU;
  CHECK(rarefy_spmm(matrix, &args) == RAREFY_OK);
  /* Small integers and halves: exact in any order of summation. */
  CHECK(c[0] == 9.5F && c[1] == 0 && c[2] == 10);
  CHECK(c[3] == 0 && c[4] == 0 && c[5] == 0);
  rarefy_matrix_free(matrix);
  rarefy_matrix_free(NULL);
  return NULL;
}

static const char* tokenise(const char* directory) {
  const char text[] = "In the year 1815";
  rarefy_tokenizer* tokenizer = NULL;
  CHECK(rarefy_tokenizer_load(directory, &tokenizer) == RAREFY_OK);
  int64_t vocab = 0;
  CHECK(rarefy_tokenizer_vocab_size(tokenizer, &vocab) == RAREFY_OK && vocab == 2048);
  size_t count = 0;
  size_t again = 0;
  CHECK(rarefy_tokenizer_encode(tokenizer, text, strlen(text), 1, NULL, 0, &count) == RAREFY_OK);
  CHECK(count > 1);
  int32_t* ids = malloc(count * sizeof *ids);
  CHECK(ids != NULL);
  CHECK(rarefy_tokenizer_encode(tokenizer, text, strlen(text), 1, ids, count - 1, &again) ==
        RAREFY_INVALID_ARGUMENT);
  CHECK(again == count);
  CHECK(rarefy_tokenizer_encode(tokenizer, text, strlen(text), 1, ids, count, &again) == RAREFY_OK);
  CHECK(ids[0] == 0); /* begin of text */
  char* decoded = NULL;
  size_t bytes = 0;
  CHECK(rarefy_tokenizer_decode(tokenizer, ids, count, 1, &decoded, &bytes) == RAREFY_OK);
  CHECK(bytes == strlen(text) && strcmp(decoded, text) == 0);
  rarefy_string_free(decoded);
  free(ids);
  rarefy_tokenizer_free(tokenizer);
  return NULL;
}

struct seen {
  char text[4096];
  size_t bytes;
};

static int32_t append(const char* text, size_t text_bytes, void* user) {
  struct seen* seen = user;
  if (seen->bytes + text_bytes > sizeof seen->text) return 1;
  memcpy(seen->text + seen->bytes, text, text_bytes);
  seen->bytes += text_bytes;
  return 0;
}

static const char* generate(const char* directory) {
  rarefy_load_options load = {sizeof load};
  load.no_measure = 1;
  rarefy_model* model = NULL;
  CHECK(rarefy_model_load(directory, &load, &model) == RAREFY_OK);
  rarefy_generate_options options = {sizeof options};
  options.max_tokens = 12;
  struct seen seen = {{0}, 0};
  char* text = NULL;
  rarefy_generation result = {sizeof result};
  CHECK(rarefy_generate(model, "Once", 4, &options, append, &seen, &text, &result) == RAREFY_OK);
  CHECK(result.new_tokens == 12 && result.finish == RAREFY_FINISH_LENGTH);
  CHECK(result.text_bytes == seen.bytes && strlen(text) == seen.bytes);
  CHECK(memcmp(text, seen.text, seen.bytes) == 0);
  rarefy_string_free(text);
  rarefy_model_free(model);
  return NULL;
}

const char* run_c_program(const char* model_directory) {
  CHECK(strcmp(rarefy_status_name(RAREFY_OK), "ok") == 0);
  const char* failed = multiply();
  if (failed == NULL) failed = tokenise(model_directory);
  if (failed == NULL) failed = generate(model_directory);
  return failed;
}
