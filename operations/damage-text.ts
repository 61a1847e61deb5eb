/** Why a backup is marked as damaged, without the word that only tells which look at it has set the mark. */
export const damageText = (damage: string): string => damage.replace(/^(files|bytes): /, '');
