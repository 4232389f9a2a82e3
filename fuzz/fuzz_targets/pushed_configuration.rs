#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| adit_connector::config::fuzz_pushed_configuration(data));
