/* Rarefy from C, and from every language that can call C.
 *
 * Handles are opaque and owned by the caller: each is made by one function, which writes it only
 * when it succeeds, and given back by its `_free`, which takes NULL too. Texts are UTF-8 with an
 * explicit length in bytes and need no NUL at the end; texts that Rarefy returns have one all the
 * same and are given back with `rarefy_string_free`. Nothing that is passed in is kept after the
 * call.
 *
 * Every function that can fail returns a `rarefy_status`; `rarefy_last_error` says what was wrong.
 * No C++ exception leaves a function.
 *
 * Structs begin with their size, so that they can grow: set `size` to `sizeof` of the struct before
 * the call. In options, zero always means "as usual": `rarefy_generate_options o = {sizeof o};` is
 * the same as NULL.
 *
 * Threads: tokenizers and matrices may be used from several threads at once. A model works for one
 * call at a time; a second call that comes meanwhile, the callback of `rarefy_generate` included,
 * is refused (RAREFY_INVALID_ARGUMENT). No handle may be freed while a call works with it. */
#ifndef RAREFY_C_H
#define RAREFY_C_H

#include <stddef.h>
#include <stdint.h>

/* NOLINTBEGIN(readability-identifier-naming): C's own way to spell names */

#ifdef __cplusplus
extern "C" {
#endif

/* ---------------------------------------------------------------- errors and the whole process */

typedef int32_t rarefy_status;
enum {
  RAREFY_OK = 0,
  RAREFY_INVALID_ARGUMENT = 1, /* Can never work: NULL, a wrong shape, dtype, range or name. */
  RAREFY_UNSUPPORTED = 2,      /* Well-formed, but not something this build or machine does. */
  RAREFY_CORRUPT = 3,          /* A file contradicts itself or its specification. */
  RAREFY_IO = 4,               /* The operating system refused: missing file, no permission. */
  RAREFY_OUT_OF_MEMORY = 5,    /* An allocation or a memory budget was exceeded. */
  RAREFY_INTERNAL = 6          /* A bug of Rarefy, or an exception of a callback written in C++. */
};

/* "0.1.0". Static. */
const char* rarefy_version(void);

/* "ok", "invalid-argument", "unsupported", "corrupt", "io", "out-of-memory", "internal"; "unknown"
 * for any other number. Static. */
const char* rarefy_status_name(rarefy_status status);

/* One line about the last call that failed on this thread: which file, tensor or argument, what was
 * expected, what came; cut after 1023 bytes. "" before the first failure. Valid until the next
 * failure on this thread; calls that succeed leave it as it is. */
const char* rarefy_last_error(void);

/* Frees a text that Rarefy returned; NULL is allowed. */
void rarefy_string_free(char* text);

/* How many threads, the caller included, work for handles that are made from now on; those made
 * before keep theirs. 0: as many as RAREFY_THREADS says, else one for each usable CPU, which is
 * also the setting before the first call. The number never changes a result. Errors:
 * RAREFY_INVALID_ARGUMENT unless 0 <= threads <= 1024. */
rarefy_status rarefy_set_threads(int32_t threads);

/* ---------------------------------------------------------------------------------- tokenizers */

typedef struct rarefy_tokenizer rarefy_tokenizer;

/* Reads tokenizer.json: `path` (NUL-terminated) names the file or its folder.
 * Errors: RAREFY_IO, RAREFY_CORRUPT, RAREFY_UNSUPPORTED for a part that Rarefy does not run. */
rarefy_status rarefy_tokenizer_load(const char* path, rarefy_tokenizer** tokenizer);
void rarefy_tokenizer_free(rarefy_tokenizer* tokenizer);

/* One more than the largest id. */
rarefy_status rarefy_tokenizer_vocab_size(const rarefy_tokenizer* tokenizer, int64_t* vocab_size);

/* Ids of `text`, exactly those of Hugging Face tokenizers; invalid UTF-8 is read as U+FFFD.
 * `add_special` != 0 adds what the model expects around a text (a begin-of-text token, say).
 * `*count` receives the number of ids, whatever `capacity` is. Room for all of them in `ids` is
 * needed, or none: with ids == NULL and capacity == 0 the call only counts.
 * Errors: RAREFY_INVALID_ARGUMENT when 0 < capacity < *count or ids is NULL otherwise; nothing is
 * written to `ids` then. */
rarefy_status rarefy_tokenizer_encode(const rarefy_tokenizer* tokenizer, const char* text,
                                      size_t text_bytes, int32_t add_special, int32_t* ids,
                                      size_t capacity, size_t* count);

/* Text of `count` ids; those outside the vocabulary are passed over, special tokens too when
 * `skip_special` != 0. `*text` is to be freed with rarefy_string_free; `text_bytes` may be NULL. */
rarefy_status rarefy_tokenizer_decode(const rarefy_tokenizer* tokenizer, const int32_t* ids,
                                      size_t count, int32_t skip_special, char** text,
                                      size_t* text_bytes);

/* -------------------------------------------------------------------------------------- models */

typedef struct rarefy_model rarefy_model;

typedef struct rarefy_load_options {
  size_t size;
  const char* formats;      /* NULL: every weight format competes. Otherwise only these, such as
                               "bitmap,csr16" (dense is always tried); "dense" for a dense model. */
  const char* cache_dir;    /* Where plans are kept. NULL: $RAREFY_CACHE, else
                               $XDG_CACHE_HOME/rarefy, else ~/.cache/rarefy. */
  uint64_t memory_budget;   /* Bytes for all packed weights together; 0: no limit. */
  int32_t no_measure;       /* != 0: plans come from the cache or from the estimate. */
  int32_t bf16_activations; /* != 0: activations may be rounded to bf16 before a multiplication;
                               0: they keep at least 16 bits of mantissa. */
  const char* device; /* "cpu" (also when NULL), "cuda": the first NVIDIA GPU, or "auto": a GPU
                         when there is one that can, otherwise the CPU. On a GPU `formats` is
                         "dense" or NULL, and plans are made for the checkpoint's dtype. */
} rarefy_load_options;

/* Reads config.json, tokenizer.json and the weights of a model folder (NUL-terminated path), and
 * chooses a format and a kernel for each weight. `options` may be NULL.
 * Errors: RAREFY_IO for what is missing, RAREFY_CORRUPT for a tensor that is missing, has another
 * shape than config.json says or holds NaN or infinity, RAREFY_UNSUPPORTED for an architecture that
 * Rarefy does not run or a GPU that cannot be had, RAREFY_OUT_OF_MEMORY when no choice fits the
 * budget or the GPU. */
rarefy_status rarefy_model_load(const char* directory, const rarefy_load_options* options,
                                rarefy_model** model);
void rarefy_model_free(rarefy_model* model);

typedef struct rarefy_model_description {
  size_t size;
  int64_t parameters; /* Embeddings counted once when tied. */
  int64_t layers;
  int64_t vocab_size;
  int64_t hidden_size;
  int64_t context;             /* Positions that the model was made for. */
  uint64_t weight_bytes;       /* All weights as they are held in memory. */
  uint64_t dense_weight_bytes; /* The same, all dense in the checkpoint's dtype. */
  const char* device;          /* "cpu", or the name of the GPU; lives as long as the model. */
  const char* gpu_note;        /* With "auto": why the GPU that is there is not used; else "". */
} rarefy_model_description;

rarefy_status rarefy_model_info(const rarefy_model* model, rarefy_model_description* description);

typedef struct rarefy_generate_options {
  size_t size;
  int64_t max_tokens;       /* New tokens at most; 0: 128. */
  float temperature;        /* 0: greedy, always the likeliest token. */
  float top_p;              /* Draw among the likeliest that hold this share; 0: off. */
  float min_p;              /* Drop tokens below this times the likeliest; 0: off. */
  float repetition_penalty; /* Divides the logits of tokens seen before; 0: off. */
  int32_t top_k;            /* Draw among so many likeliest; 0: off. */
  int32_t ignore_eos;       /* != 0: goes on after an end-of-text token. */
  uint64_t seed;            /* The same seed gives the same text. */
  const char* const* stop; /* `stop_count` NUL-terminated strings: the text ends before the first of
                              them. */
  size_t stop_count;
} rarefy_generate_options;

/* Called with each piece of new text as it becomes final: whole characters, NOT NUL-terminated,
 * valid during the call. Anything but 0 ends the generation; the text so far is kept. */
typedef int32_t (*rarefy_text_callback)(const char* text, size_t text_bytes, void* user);

enum {
  RAREFY_FINISH_LENGTH = 0,
  RAREFY_FINISH_EOS = 1,
  RAREFY_FINISH_STOP = 2,
  RAREFY_FINISH_CANCELLED = 3
};

typedef struct rarefy_generation {
  size_t size;
  size_t text_bytes;     /* Of the new text, without the NUL. */
  int64_t prompt_tokens; /* Special tokens that were added included. */
  int64_t new_tokens;    /* An end-of-text token included. */
  double prefill_s;
  double decode_s;
  int32_t finish; /* Why it ended: RAREFY_FINISH_LENGTH ... */
} rarefy_generation;

/* Goes on from `prompt`. The new text, without the prompt, goes to `callback` (may be NULL; `user`
 * is handed to it) piece by piece, and as a whole to `*text`, to be freed with rarefy_string_free;
 * `text`, `options` and `generation` may be NULL.
 * Errors: RAREFY_INVALID_ARGUMENT for numbers out of range, a prompt longer than the context, and
 * an empty one when the model has no token to begin with. */
rarefy_status rarefy_generate(rarefy_model* model, const char* prompt, size_t prompt_bytes,
                              const rarefy_generate_options* options, rarefy_text_callback callback,
                              void* user, char** text, rarefy_generation* generation);

typedef struct rarefy_perplexity_result {
  size_t size;
  double ppl;           /* exp(nll) */
  double nll;           /* Mean over windows of the mean loss of a window, in nats. */
  double bits_per_byte; /* nll in bits * tokens of the text / bytes of the text */
  int64_t windows;
  int64_t tokens;
} rarefy_perplexity_result;

/* How well the model predicts `text`: tokenised once, without special tokens, cut into windows of
 * `context` tokens, the tail dropped. `max_windows` 0: all.
 * Errors: RAREFY_INVALID_ARGUMENT when the text is shorter than one window or the context longer
 * than the model's. */
rarefy_status rarefy_perplexity(rarefy_model* model, const char* text, size_t text_bytes,
                                int64_t context, int64_t max_windows,
                                rarefy_perplexity_result* result);

/* ------------------------------------------------------------------------------------ matrices */

typedef int32_t rarefy_dtype;
enum { RAREFY_F32 = 0, RAREFY_F16 = 1, RAREFY_BF16 = 2 };

/* A packed weight, immutable. */
typedef struct rarefy_matrix rarefy_matrix;

/* Packs a copy of the M x K weight whose element (r, c) lies at dense[r * row_stride + c]; strides
 * count elements, 0 means `cols`. Values keep their dtype; zeros of either sign are not stored.
 * `format` (NUL-terminated): "dense", "csr", "csr16", "bitmap", "window", "csb", "delta4",
 * "delta8", "sell8", "sell16", "N:M" such as "2:4", "bsrRxC" such as "bsr16x32"; or NULL: the
 * planner takes what is fastest here at 1 and at 128 columns, which may measure for seconds the
 * first time and is then cached. Errors: RAREFY_INVALID_ARGUMENT for an unknown format, dtype, a
 * negative shape or a stride below `cols`; RAREFY_UNSUPPORTED when the format cannot hold this
 * shape or these values. */
rarefy_status rarefy_matrix_pack(const void* dense, rarefy_dtype dtype, int64_t rows, int64_t cols,
                                 int64_t row_stride, const char* format, rarefy_matrix** matrix);
void rarefy_matrix_free(rarefy_matrix* matrix);

typedef struct rarefy_matrix_description {
  size_t size;
  char format[32]; /* As rarefy_matrix_pack takes it. */
  rarefy_dtype dtype;
  int64_t rows;
  int64_t cols;
  int64_t nnz;    /* Values that are not zero. */
  uint64_t bytes; /* In memory: every array, with its padding. */
} rarefy_matrix_description;

rarefy_status rarefy_matrix_info(const rarefy_matrix* matrix,
                                 rarefy_matrix_description* description);

enum {
  RAREFY_ACTIVATION_NONE = 0,
  RAREFY_ACTIVATION_RELU = 1,
  RAREFY_ACTIVATION_GELU = 2,
  RAREFY_ACTIVATION_SILU = 3
}; /* GELU is the exact (erf) form. */

enum {
  RAREFY_TOKEN_MAJOR =
      0, /* B is N rows of K values, C is N rows of M: as transformers keep them. */
  RAREFY_FEATURE_MAJOR = 1 /* B is K rows of N values, C is M rows of N. */
};

typedef struct rarefy_spmm_args {
  size_t size;
  int64_t n;            /* Columns of B and C, >= 0. */
  const void* b;        /* Activations. */
  void* c;              /* Result; may not overlap b. */
  const float* bias;    /* M values, or NULL. */
  const void* residual; /* Shaped as c, with its dtype and row stride, or NULL; may be c. */
  int64_t b_row_stride; /* In elements; 0: rows lie one after the other. */
  int64_t c_row_stride;
  rarefy_dtype b_dtype;
  rarefy_dtype c_dtype;
  int32_t activation;       /* RAREFY_ACTIVATION_NONE ... */
  int32_t layout;           /* RAREFY_TOKEN_MAJOR or RAREFY_FEATURE_MAJOR */
  int32_t bf16_activations; /* != 0: B may be rounded to bf16 first; 0: f32 keeps at least 16 bits
                               of mantissa. */
  int32_t reserved;         /* 0 */
} rarefy_spmm_args;

/* C = act(A*B + bias) + residual with A the M x K matrix, B K x N, C M x N; sums in f32; bitwise
 * the same for any number of threads. Errors: RAREFY_INVALID_ARGUMENT for sizes, strides, dtypes or
 * overlaps that do not fit; c is as it was then. */
rarefy_status rarefy_spmm(const rarefy_matrix* matrix, const rarefy_spmm_args* args);

#ifdef __cplusplus
}
#endif

/* NOLINTEND(readability-identifier-naming) */
#endif
