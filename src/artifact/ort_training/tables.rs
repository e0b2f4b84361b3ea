//! The flatbuffer tables of a checkpoint, read. ONNX Runtime calls the file's schema `ort_training_checkpoint.fbs`; fields are
//! known by their order.

use flatbuffers::{Follow, ForwardsUOffset, InvalidFlatbuffer, Table, Vector, Verifiable, Verifier};

/// The offset of a table's field, by its place in the schema.
pub(super) const fn slot(place: u16) -> u16 {
    4 + 2 * place
}

/// A table: a reader and a verifier of the fields that are named.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident<$buffer:lifetime> { $($place:literal $field:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(super) struct $name<$buffer>(Table<$buffer>);

        #[allow(unsafe_code)]
        impl<$buffer> Follow<$buffer> for $name<$buffer> {
            type Inner = $name<$buffer>;
            unsafe fn follow(buffer: &$buffer [u8], at: usize) -> Self::Inner {
                // SAFETY: the caller has verified that a table stands there.
                $name(unsafe { Table::new(buffer, at) })
            }
        }

        impl<$buffer> Verifiable for $name<$buffer> {
            fn run_verifier(verifier: &mut Verifier, at: usize) -> Result<(), InvalidFlatbuffer> {
                verifier.visit_table(at)?
                    $(.visit_field::<$kind>(stringify!($field), slot($place), false)?)*
                    .finish();
                Ok(())
            }
        }

        #[allow(unsafe_code)]
        impl<$buffer> $name<$buffer> {
            $(pub(super) fn $field(&self) -> Option<<$kind as Follow<$buffer>>::Inner> {
                // SAFETY: tables are only made of buffers that were verified, these fields included.
                unsafe { self.0.get::<$kind>(slot($place), None) }
            })*
        }
    };
}

table!(Checkpoint<'a> {
    0 version: i32,
    1 module_state: ForwardsUOffset<ModuleState<'a>>,
    2 optimizer_groups: ForwardsUOffset<Vector<'a, ForwardsUOffset<OptimizerGroup<'a>>>>,
    3 property_bag: ForwardsUOffset<PropertyBag<'a>>,
});

table!(ModuleState<'a> {
    0 requires_grad_params: ForwardsUOffset<Vector<'a, ForwardsUOffset<Tensor<'a>>>>,
    1 frozen_params: ForwardsUOffset<Vector<'a, ForwardsUOffset<Tensor<'a>>>>,
    2 is_nominal_state: bool,
    3 has_external_data: bool,
});

table!(Tensor<'a> {
    0 name: ForwardsUOffset<&'a str>,
    2 dims: ForwardsUOffset<Vector<'a, i64>>,
    3 data_type: i32,
    4 raw_data: ForwardsUOffset<Vector<'a, u8>>,
    6 external_data_offset: i64,
});

table!(OptimizerGroup<'a> {
    1 step: i64,
});

table!(PropertyBag<'a> {
    2 strings: ForwardsUOffset<Vector<'a, ForwardsUOffset<StringProperty<'a>>>>,
});

table!(StringProperty<'a> {
    0 name: ForwardsUOffset<&'a str>,
    1 value: ForwardsUOffset<&'a str>,
});
