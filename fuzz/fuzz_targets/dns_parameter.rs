#![no_main]
libfuzzer_sys::fuzz_target!(|text: &str| adit_wire::dns::fuzz_parameter(text));
