"What settings.ini says, for the scripts beside this file"
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

def read_settings()->dict[str, str]: # key -> text
    "Name, version, address and requirements of the project"
    config = ConfigParser(delimiters=['='])
    config.read(ROOT/'settings.ini', encoding='utf-8')
    return dict(config['DEFAULT'])

def lines(
    key:str, # as 'requirements'
)->list[str]:
    "A setting that stands on several lines"
    return [line.strip() for line in read_settings()[key].splitlines() if line.strip()]
