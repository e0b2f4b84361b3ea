"""Prints each standard operator: its name, the opsets in which it changed, the real types of its newest form."""
import onnx

REAL = ["tensor(float16)", "tensor(bfloat16)", "tensor(float)", "tensor(double)"]
versions, newest = {}, {}
for schema in onnx.defs.get_all_schemas_with_history():
    if schema.domain == "" and not schema.deprecated:
        versions.setdefault(schema.name, set()).add(schema.since_version)
        if schema.since_version == max(versions[schema.name]):
            newest[schema.name] = schema
for name in sorted(versions):
    allowed = {kind for constraint in newest[name].type_constraints for kind in constraint.allowed_type_strs}
    types = [kind[7:-1] for kind in REAL if kind in allowed]
    print(name, ", ".join(map(str, sorted(versions[name]))), ", ".join(types), sep="\t")
