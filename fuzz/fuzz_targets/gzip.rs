#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| qus_fuzz::gzip(input));
