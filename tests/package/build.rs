//! Packages in the making, good ones and others.

use std::io::Write;

use tar::{EntryType, Header};

pub(crate) const CONTROL: &str = "Package: qemu-user-static\nVersion: 1:7.2\nArchitecture: amd64\n";

pub(crate) fn elf(tag: u8, size: usize) -> Vec<u8> {
    let noise = (0..size).map(|n| (n * n / 7).to_le_bytes()[0] ^ tag);
    b"\x7fELF".iter().copied().chain(noise).collect()
}

/// An archive in the making. `dpkg-deb` writes paths that begin with `./`.
pub(crate) struct Tree(pub(crate) tar::Builder<Vec<u8>>);

impl Tree {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub(crate) fn header(kind: EntryType, path: &str, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        // Written as it is: the crate refuses hostile paths.
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_mode(0o755);
        header.set_size(size);
        header.set_cksum();
        header
    }

    pub(crate) fn file(self, path: &str, content: &[u8]) -> Self {
        self.raw(&Self::header(EntryType::Regular, path, content.len() as u64), content)
    }

    pub(crate) fn link(mut self, kind: EntryType, path: &str, target: &str) -> Self {
        let mut header = Self::header(kind, path, 0);
        header.set_link_name_literal(target).unwrap();
        header.set_cksum();
        self.0.append(&header, &[][..]).unwrap();
        self
    }

    pub(crate) fn raw(mut self, header: &Header, content: &[u8]) -> Self {
        self.0.append(header, content).unwrap();
        self
    }

    pub(crate) fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub(crate) fn pack(suffix: &str, content: &[u8]) -> Vec<u8> {
    match suffix {
        "" => content.to_vec(),
        ".gz" => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(content).unwrap();
            out.finish().unwrap()
        }
        ".xz" => xz(content, 64 << 10),
        ".zst" => ruzstd::encoding::compress_to_vec(content, ruzstd::encoding::CompressionLevel::Fastest),
        _ => panic!("no {suffix} here"),
    }
}

pub(crate) fn xz(content: &[u8], block: u64) -> Vec<u8> {
    let mut options = lzma_rust2::XzOptions::with_preset(1);
    // A block is never smaller than the dictionary.
    options.lzma_options.dict_size = 64 << 10;
    options.set_block_size(std::num::NonZeroU64::new(block));
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    writer.write_all(content).unwrap();
    writer.finish().unwrap()
}

pub(crate) fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = b"!<arch>\n".to_vec();
    for (name, content) in members {
        writeln!(out, "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`", 0, 0, 0, 100_644, content.len()).unwrap();
        out.extend(*content);
        if content.len() % 2 == 1 {
            out.push(b'\n');
        }
    }
    out
}

pub(crate) fn control() -> Vec<u8> {
    Tree::new().file("./control", CONTROL.as_bytes()).done()
}

pub(crate) fn deb(suffix: &str, tree: &[u8]) -> Vec<u8> {
    let control = pack(suffix, &control());
    let data = pack(suffix, tree);
    ar(&[
        ("debian-binary", b"2.0\n"),
        (&format!("control.tar{suffix}"), &control),
        (&format!("data.tar{suffix}"), &data),
    ])
}

pub(crate) fn good_tree() -> Vec<u8> {
    Tree::new()
        .file("./usr/share/doc/qemu-user-static/copyright", b"free")
        .link(EntryType::Symlink, "./usr/bin/qemu-arm64-static", "qemu-aarch64-static")
        .file("./usr/bin/qemu-aarch64-static", &elf(1, 150_000))
        .file("./usr/bin/qemu-arm-static", &elf(2, 70_001))
        .file("./usr/bin/qemu-s390x-static", &elf(3, 5))
        .done()
}
