#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| adit_transport::messages::fuzz_messages(data));
