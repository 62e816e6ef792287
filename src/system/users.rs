//! Finds users in files such as `/etc/passwd`. A static program like qus cannot use other name services.

use std::fs;
use std::path::Path;

use nix::unistd::Uid;

/// File with one line for each user: name, password, uid (`passwd(5)`).
const PASSWD: &str = "/etc/passwd";

/// Returns the name of a user; `None` if the user is not in `/etc/passwd`.
#[must_use]
pub fn name_of(uid: Uid) -> Option<String> {
    find(&fs::read_to_string(PASSWD).ok()?, |_, id| id == uid).map(|(name, _)| name)
}

/// Returns the id of a user; `None` if the user is not in `/etc/passwd`.
#[must_use]
pub fn uid_of(name: &str) -> Option<Uid> {
    find(&fs::read_to_string(PASSWD).ok()?, |its, _| its == name).map(|(_, uid)| uid)
}

/// Returns the name and id of the first user for which `is_wanted` returns true. `passwd` is the text of a `passwd(5)`
/// file.
fn find(passwd: &str, is_wanted: impl Fn(&str, Uid) -> bool) -> Option<(String, Uid)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, uid) = (fields.next()?, fields.nth(1)?.parse().ok().map(Uid::from_raw)?);
        is_wanted(name, uid).then(|| (name.to_owned(), uid))
    })
}

/// Returns a user's first range of subordinate ids in `file` (`subuid(5)`): the first id and the number of ids. The
/// user is found by name or by number; an empty `name` means a user without a name.
#[must_use]
pub fn subordinate_ids(file: &Path, name: &str, uid: Uid) -> Option<(u32, u32)> {
    let text = fs::read_to_string(file).ok()?;
    let uid = uid.to_string();
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (user, start, count) = (fields.next()?, fields.next()?, fields.next()?);
        let is_wanted = (!name.is_empty() && user == name) || user == uid;
        is_wanted.then(|| Some((start.parse().ok()?, count.trim().parse().ok()?)))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_by_id() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\njunk\n_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\n";
        let apt = ("_apt".to_owned(), Uid::from_raw(42));
        assert_eq!(find(passwd, |name, _| name == "_apt"), Some(apt.clone()));
        assert_eq!(find(passwd, |_, uid| uid == Uid::from_raw(42)), Some(apt));
        assert_eq!(find(passwd, |name, _| name == "junk"), None);
    }

    #[test]
    fn subordinate_ids_are_found_by_name_and_by_number() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text =
            "other:100000:65536\nsomebody:junk:1\nme:200000:1000\nme:300000:5\n1234:400000:7\n:500000:9\n";
        fs::write(file.path(), text).unwrap();
        let find = |name: &str, uid: u32| subordinate_ids(file.path(), name, Uid::from_raw(uid));
        assert_eq!(find("me", 1), Some((200_000, 1000)));
        assert_eq!(find("nobody", 1234), Some((400_000, 7)));
        // An empty name must not match the line with an empty user name.
        assert_eq!(find("", 1), None);
        assert_eq!(find("somebody", 1), None);
    }
}
