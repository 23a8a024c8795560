# Run at build time: writes OUT from IN with the current commit, touching it only when that changed.
execute_process(COMMAND git describe --always --dirty=+ --abbrev=8 --exclude=* WORKING_DIRECTORY ${SOURCE_DIR}
  OUTPUT_VARIABLE RAREFY_COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE status)
if(NOT status EQUAL 0)
  set(RAREFY_COMMIT unknown)
endif()
configure_file(${IN} ${OUT} @ONLY)
