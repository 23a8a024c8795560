/* Text from a model, in plain C: generate MODEL_DIR */
#include <stdio.h>
#include <string.h>

#include "rarefy/c.h"

static int32_t print(const char* text, size_t text_bytes, void* user) {
  return fwrite(text, 1, text_bytes, user) == text_bytes ? 0 : 1;
}

static int failed(rarefy_status status) {
  fprintf(stderr, "%s: %s\n", rarefy_status_name(status), rarefy_last_error());
  return 1;
}

int main(int argc, char** argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: generate MODEL_DIR\n");
    return 2;
  }
  rarefy_model* model = NULL;
  rarefy_status status = rarefy_model_load(argv[1], NULL, &model);
  if (status != RAREFY_OK) return failed(status);

  rarefy_model_description info = {sizeof info};
  rarefy_model_info(model, &info);
  printf("rarefy %s: %lld parameters in %llu bytes (dense: %llu)\n", rarefy_version(),
         (long long)info.parameters, (unsigned long long)info.weight_bytes,
         (unsigned long long)info.dense_weight_bytes);

  const char* prompt = "Once upon a time";
  rarefy_generate_options options = {sizeof options};
  options.max_tokens = 40;
  fputs(prompt, stdout);
  status = rarefy_generate(model, prompt, strlen(prompt), &options, print, stdout, NULL, NULL);
  putchar('\n');
  rarefy_model_free(model);
  return status == RAREFY_OK ? 0 : failed(status);
}
