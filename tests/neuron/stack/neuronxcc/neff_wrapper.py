"""An HLO module whose entry root is the custom call `AwsNeuronNeff` with a NEFF inside."""

from __future__ import annotations

from neuronxcc.wire import byte_fields, bytes_field, integer_field

# Field numbers of xla's hlo.proto and xla_data.proto.
_MODULE_NAME, _MODULE_ENTRY, _MODULE_COMPUTATION, _MODULE_SHAPE, _MODULE_ENTRY_ID = 1, 2, 3, 4, 6
_COMPUTATION_NAME, _COMPUTATION_INSTRUCTION, _COMPUTATION_SHAPE, _COMPUTATION_ID, _COMPUTATION_ROOT = 1, 2, 4, 5, 6
_NAME, _OPCODE, _SHAPE, _PARAMETER_NUMBER, _TARGET, _ID, _OPERANDS, _BACKEND_CONFIG, _FRONTEND = (
    *(1, 2, 3, 9, 28),
    *(35, 36, 43, 68),
)
_PROGRAM_PARAMETER, _PROGRAM_RESULT = 1, 2
TARGET = "AwsNeuronNeff"


def wrap(neff: bytes, hlo: bytes) -> bytes:
    """Same parameters and result as `hlo`, the work done by `neff`."""
    program = (byte_fields(hlo, _MODULE_SHAPE) or [b""])[0]
    shapes = byte_fields(program, _PROGRAM_PARAMETER)
    instructions = [_parameter(number, shape) for number, shape in enumerate(shapes)]
    instructions.append(_custom_call(neff, len(shapes), (byte_fields(program, _PROGRAM_RESULT) or [b""])[0]))
    computation = bytes_field(_COMPUTATION_NAME, b"main")
    computation += b"".join(bytes_field(_COMPUTATION_INSTRUCTION, one) for one in instructions)
    computation += bytes_field(_COMPUTATION_SHAPE, program) + integer_field(_COMPUTATION_ID, 1)
    computation += integer_field(_COMPUTATION_ROOT, len(shapes) + 1)
    module = bytes_field(_MODULE_NAME, b"neff_wrapper") + bytes_field(_MODULE_ENTRY, b"main")
    module += bytes_field(_MODULE_COMPUTATION, computation) + bytes_field(_MODULE_SHAPE, program)
    return module + integer_field(_MODULE_ENTRY_ID, 1)


def unwrap(wrapped: bytes) -> bytes:
    """The NEFF in a wrapper module."""
    computation = byte_fields(wrapped, _MODULE_COMPUTATION)[0]
    for instruction in byte_fields(computation, _COMPUTATION_INSTRUCTION):
        if byte_fields(instruction, _TARGET) == [TARGET.encode()]:
            return byte_fields(instruction, _BACKEND_CONFIG)[0]
    raise ValueError(f"no {TARGET} call in this module")


def _parameter(number: int, shape: bytes) -> bytes:
    fields = bytes_field(_NAME, f"p{number}".encode()) + bytes_field(_OPCODE, b"parameter")
    fields += bytes_field(_SHAPE, shape) + integer_field(_PARAMETER_NUMBER, number)
    return fields + integer_field(_ID, number + 1)


def _custom_call(neff: bytes, parameters: int, result: bytes) -> bytes:
    fields = bytes_field(_NAME, b"neff") + bytes_field(_OPCODE, b"custom-call") + bytes_field(_SHAPE, result)
    fields += bytes_field(_TARGET, TARGET.encode()) + integer_field(_ID, parameters + 1)
    fields += b"".join(integer_field(_OPERANDS, number + 1) for number in range(parameters))
    valid_inputs = ",".join("1" for _ in range(parameters)).encode()
    entry = bytes_field(1, b"valid_inputs") + bytes_field(2, valid_inputs)
    return fields + bytes_field(_BACKEND_CONFIG, neff) + bytes_field(_FRONTEND, bytes_field(1, entry))
