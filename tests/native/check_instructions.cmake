# Fails when objects lack an instruction that they exist for, or contain one that their CPUs lack:
# cmake -DOBJDUMP=objdump -DOBJECTS=a.o;b.o -DWANTED=regex -DFORBIDDEN=regex -P check_instructions.cmake
execute_process(COMMAND ${OBJDUMP} -d --no-show-raw-insn ${OBJECTS} OUTPUT_VARIABLE code RESULT_VARIABLE failed)
if(failed)
  message(FATAL_ERROR "${OBJDUMP} cannot read ${OBJECTS}")
endif()
if(NOT code MATCHES "${WANTED}")
  message(FATAL_ERROR "${OBJECTS} do not contain '${WANTED}'")
endif()
if(code MATCHES "[^\n]*(${FORBIDDEN})[^\n]*")
  message(FATAL_ERROR "${OBJECTS} contain what not every CPU that runs them has: ${CMAKE_MATCH_0}")
endif()
