#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| adit_terraform::value::fuzz_value(data));
