//! What is written together.

/// Records that are written or deleted together, whole or not at all.
#[derive(Default)]
pub(super) struct WriteBatch {
    operations: Vec<Operation>,
}

/// One record: its family, its key and what is written, `None` to delete it.
pub(super) type Operation = (&'static str, Vec<u8>, Option<Vec<u8>>);

impl WriteBatch {
    pub(super) fn put(
        &mut self,
        family: &'static str,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) {
        let (key, value) = (key.as_ref().to_vec(), value.as_ref().to_vec());
        self.operations.push((family, key, Some(value)));
    }

    pub(super) fn delete(&mut self, family: &'static str, key: impl AsRef<[u8]>) {
        self.operations.push((family, key.as_ref().to_vec(), None));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    pub(super) fn into_operations(self) -> Vec<Operation> {
        self.operations
    }
}
