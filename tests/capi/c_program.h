#ifndef RAREFY_TESTS_CAPI_C_PROGRAM_H
#define RAREFY_TESTS_CAPI_C_PROGRAM_H
#ifdef __cplusplus
extern "C" {
#endif
/* What a C program does: multiplies, tokenises, generates. Returns NULL, or the check that failed.
 */
const char* run_c_program(const char* model_directory);
#ifdef __cplusplus
}
#endif
#endif
