# The installed tree: one shared library that holds every area, the public headers, the command, and find_package(rarefy).
get_property(areas GLOBAL PROPERTY RAREFY_AREAS)
add_library(rarefy SHARED ${PROJECT_SOURCE_DIR}/cmake/empty.cc)
add_library(rarefy::rarefy ALIAS rarefy)
target_include_directories(rarefy PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
                                         $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_compile_features(rarefy PUBLIC cxx_std_20)
# An area also comes in as a dependency of the next one, without the feature; the override settles that.
list(JOIN areas "," area_list)
set_property(TARGET rarefy PROPERTY LINK_LIBRARY_OVERRIDE "WHOLE_ARCHIVE,${area_list}")
foreach(area ${areas})
  target_link_libraries(rarefy PRIVATE $<BUILD_INTERFACE:${area}>)
endforeach()
set_target_properties(rarefy PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})

include(CMakePackageConfigHelpers)
install(TARGETS rarefy EXPORT rarefyTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS rarefy_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/rarefy DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT rarefyTargets NAMESPACE rarefy:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/rarefy)
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/rarefyConfig.cmake.in ${PROJECT_BINARY_DIR}/rarefyConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/rarefy)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/rarefyConfigVersion.cmake COMPATIBILITY SameMajorVersion)
install(FILES ${PROJECT_BINARY_DIR}/rarefyConfig.cmake ${PROJECT_BINARY_DIR}/rarefyConfigVersion.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/rarefy)
