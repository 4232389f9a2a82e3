//! A file that is put aside when it has grown to a size, under its name with a number behind it: the higher, the older.
//!
//! What holds: there are never more files than the limit says, none is much longer than it says, and only their owner reads
//! them. Every line is whole, also in a file whose writer was killed: what it left begins a line of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::FileLimits;

/// An open file.
#[derive(Debug)]
pub(super) struct RotatingFile {
    path: PathBuf,
    limits: FileLimits,
    file: File,
    length: u64,
}

impl RotatingFile {
    /// Goes on at the end of the file, making it if it is not there.
    pub(super) fn open(path: &Path, limits: FileLimits) -> io::Result<Self> {
        let (file, length) = at_end(path)?;
        Ok(Self { path: path.to_owned(), limits, file, length })
    }

    /// Writes a line; before it the file is put aside, if it would get too long.
    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        if self.length > 0 && self.length + length > self.limits.bytes {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.length += length;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let older = |number: u32| match number {
            0 => self.path.clone(),
            number => {
                let mut name = self.path.clone().into_os_string();
                name.push(format!(".{number}"));
                PathBuf::from(name)
            }
        };
        for number in (0..self.limits.files.saturating_sub(1)).rev() {
            match fs::rename(older(number), older(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        if self.limits.files == 1 {
            fs::remove_file(&self.path)?;
        }
        (self.file, self.length) = at_end(&self.path)?;
        Ok(())
    }
}

fn at_end(path: &Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    let mut length = file.metadata()?.len();
    if length > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            length += 1;
        }
    }
    Ok((file, length))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_bounded_in_number_and_length_and_keep_the_latest_lines_in_order() {
        for files in 1..=3 {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("records.jsonl");
            let limits = FileLimits { bytes: 25, files };
            let mut file = RotatingFile::open(&path, limits).unwrap();
            for number in 0..20 {
                file.write(format!("line {number:03}\n").as_bytes()).unwrap();
            }
            let names = names(directory.path());
            assert_eq!(names.len(), files as usize, "{names:?}");
            let mut lines = String::new();
            for name in names.iter().skip(1).rev().chain(names.first()) {
                let path = directory.path().join(name);
                let metadata = fs::metadata(&path).unwrap();
                assert!(metadata.len() <= 25 && metadata.permissions().mode() & 0o777 == 0o600);
                lines += &fs::read_to_string(path).unwrap();
            }
            let lines: Vec<&str> = lines.lines().collect();
            let expected: Vec<String> =
                (20 - lines.len()..20).map(|number| format!("line {number:03}")).collect();
            assert_eq!(lines, expected);
        }
    }

    #[test]
    fn what_a_killed_writer_left_is_a_line_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("records.jsonl");
        fs::write(&path, "{\"whole\":1}\n{\"torn").unwrap();
        let mut file = RotatingFile::open(&path, FileLimits { bytes: 1000, files: 2 }).unwrap();
        file.write(b"{\"next\":1}\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"whole\":1}\n{\"torn\n{\"next\":1}\n");
    }
}
