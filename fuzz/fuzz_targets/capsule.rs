#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| adit_transport::capsule::fuzz_capsule(data));
