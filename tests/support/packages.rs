//! Builders of packages, valid and invalid.

use std::io::Write;

use tar::{EntryType, Header};

pub(crate) const CONTROL: &str = "Package: qemu-user-static\nVersion: 1:7.2\nArchitecture: amd64\n";

pub(crate) fn elf(tag: u8, size: usize) -> Vec<u8> {
    // The numbers have 64 bits on every host, because the square of a large file's size exceeds 32 bits.
    let noise = (0..size as u64).map(|n| (n * n / 7).to_le_bytes()[0] ^ tag);
    b"\x7fELF".iter().copied().chain(noise).collect()
}

/// A tar archive that is being built. `dpkg-deb` writes paths that begin with `./`.
pub(crate) struct Tree(pub(crate) tar::Builder<Vec<u8>>);

impl Tree {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub(crate) fn header(kind: EntryType, path: &str, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        // The bytes are written directly, because the crate refuses hostile paths.
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
        _ => panic!("unknown suffix {suffix}"),
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

/// Returns an rpm package: its lead, two headers, and the unchanged payload.
pub(crate) fn rpm(payload: &[u8]) -> Vec<u8> {
    rpm_with(&[], payload)
}

/// Returns an rpm package with more entries in its second header.
pub(crate) fn rpm_with(entries: &[(u32, u32, &[u8])], payload: &[u8]) -> Vec<u8> {
    let signature = rpm_header(&[(1000, 4, &7_u32.to_be_bytes())]);
    let own: [(u32, u32, &[u8]); 5] = [
        (1000, 6, b"qemu-user-static-arm\0"),
        (1001, 6, b"9.1.0\0"),
        (1002, 6, b"2.fc41\0"),
        (1003, 4, &2_u32.to_be_bytes()),
        (1022, 6, b"x86_64\0"),
    ];
    let header = rpm_header(&[&own, entries].concat());
    let mut out = b"\xed\xab\xee\xdb\x03\0".to_vec();
    out.resize(96, 0);
    out.extend(signature);
    out.resize(out.len().next_multiple_of(8), 0);
    [&out[..], &header, payload].concat()
}

/// Returns a header of an rpm package, from numbers, types and values. A value of type 3, 4, 5 or 8 can be a list.
pub(crate) fn rpm_header(entries: &[(u32, u32, &[u8])]) -> Vec<u8> {
    let (mut index, mut data) = (Vec::new(), Vec::new());
    for (tag, kind, value) in entries {
        let width = match kind {
            3 => 2,
            4 => 4,
            5 => 8,
            _ => 1,
        };
        data.resize(data.len().next_multiple_of(width), 0);
        let count = match kind {
            3..=5 => value.len() / width,
            8 => value.split(|byte| *byte == 0).count() - 1,
            _ => 1,
        };
        for number in [*tag, *kind, u32::try_from(data.len()).unwrap(), u32::try_from(count).unwrap()] {
            index.extend(number.to_be_bytes());
        }
        data.extend(*value);
    }
    let mut out = b"\x8e\xad\xe8\x01\0\0\0\0".to_vec();
    out.extend(u32::try_from(entries.len()).unwrap().to_be_bytes());
    out.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
    [out, index, data].concat()
}

/// A cpio archive that is being built.
pub(crate) struct Cpio(pub(crate) Vec<u8>);

impl Cpio {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn file(self, path: &str, content: &[u8]) -> Self {
        self.member(path, 0o100_755, (1, 1), content.len(), content)
    }

    /// Adds a member with a mode, an inode, a number of links, a size, and content whose length may differ from the
    /// size.
    pub(crate) fn member(
        mut self,
        path: &str,
        mode: u32,
        (inode, links): (u32, u32),
        size: usize,
        content: &[u8],
    ) -> Self {
        let name = path.len() + 1;
        let fields = format!("{inode:08x}{mode:08x}{:08x}{:08x}{links:08x}{:08x}{size:08x}", 0, 0, 0);
        write!(self.0, "070701{fields}{:08x}{:08x}{:08x}{:08x}{name:08x}{:08x}", 0, 0, 0, 0, 0).unwrap();
        self.0.extend(path.as_bytes());
        self.0.push(0);
        self.pad();
        self.0.extend(content);
        self.pad();
        self
    }

    /// Adds a member that has only the number of a file, as in packages of format 6.
    pub(crate) fn numbered(mut self, number: u32, content: &[u8]) -> Self {
        write!(self.0, "07070X{number:08x}").unwrap();
        self.pad();
        self.0.extend(content);
        self.pad();
        self
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    pub(crate) fn done(self) -> Vec<u8> {
        self.member("TRAILER!!!", 0, (0, 1), 0, b"").0
    }
}

/// Returns an Alpine package of three streams. The archives of the first two have no end marker.
pub(crate) fn apk(tree: &[u8]) -> Vec<u8> {
    let part = |name: &str, content: &[u8]| {
        let mut part = Tree::new().file(name, content).done();
        part.truncate(part.len() - 1024);
        pack(".gz", &part)
    };
    let info = b"# made by hand\npkgname = qemu-arm\npkgver = 9.1.0-r2\narch = x86_64\n";
    [part(".SIGN.RSA.key", b"signature"), part(".PKGINFO", info), pack(".gz", tree)].concat()
}

/// Returns an image as `docker save` writes it: for each image an architecture and layers, lowest first.
pub(crate) fn docker(images: &[(&str, &[Vec<u8>])]) -> Vec<u8> {
    let mut tree = Tree::new();
    let mut manifest = Vec::new();
    for (architecture, layers) in images {
        let mut names = Vec::new();
        for (number, layer) in layers.iter().enumerate() {
            let name = format!("{architecture}-{number}/layer.tar");
            tree = tree.file(&name, layer);
            names.push(name);
        }
        let config = format!("{architecture}.json");
        tree = tree.file(&config, format!(r#"{{"architecture":"{architecture}"}}"#).as_bytes());
        manifest.push(serde_json::json!({"Config": config, "RepoTags": ["qus:test"], "Layers": names}));
    }
    tree.file("manifest.json", serde_json::Value::from(manifest).to_string().as_bytes()).done()
}

/// Returns the descriptor of a blob with any name that the test chooses.
pub(crate) fn descriptor(name: &str, architecture: Option<&str>) -> serde_json::Value {
    let mut value = serde_json::json!({"mediaType": "x", "digest": format!("sha256:{name}"), "size": 1});
    if let Some(architecture) = architecture {
        value["platform"] = serde_json::json!({"os": "linux", "architecture": architecture});
    }
    value
}

/// Returns an OCI image layout: the index, and blobs by name.
pub(crate) fn oci(index: &[serde_json::Value], blobs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut tree = Tree::new();
    for (name, content) in blobs {
        tree = tree.file(&format!("blobs/sha256/{name}"), content);
    }
    let index = serde_json::json!({"schemaVersion": 2, "manifests": index});
    tree = tree.file("index.json", index.to_string().as_bytes());
    tree.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).done()
}
