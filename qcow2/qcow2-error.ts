/** The bytes are not a qcow2 image that can be read safely. The message says what is wrong, not in which file. */
export class Qcow2Error extends Error {
  override readonly name = 'Qcow2Error';
}
